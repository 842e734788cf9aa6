//! Numbers for people.
//!
//! What must never happen here: a unit left out.

/// `3.1 GB`: decimal units, the way disks are sold and the log lines read.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::bytes_text;

    #[test]
    fn units_are_decimal() {
        let cases =
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_100_000_000, "3.1 GB"), (999_999, "1.0 MB")];
        for (bytes, text) in cases {
            assert_eq!(bytes_text(bytes), text);
        }
        assert_eq!(bytes_text(u64::MAX), "18.4 EB");
    }
}
