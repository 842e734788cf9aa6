//! Sizes on the tool's command line, spelled as in the configuration.

/// Units, the longest spelling first.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Reads `64KiB`, `1.5MB` or plain bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is not a size: write bytes, or a number with kB, MB, GB, KiB, MiB, GiB, such as 64KiB"
        )
    };
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1));
    let (whole, part) = number.trim_end().split_once('.').unwrap_or((number.trim_end(), ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // Nine decimals are more than any unit needs.
    if !digits(whole) || (number.contains('.') && !digits(part)) || part.len() > 9 {
        return Err(wrong());
    }
    let scale = 10_u128.pow(u32::try_from(part.len()).map_err(|_| wrong())?);
    let value: u128 = format!("{whole}{part}").parse().map_err(|_| wrong())?;
    let bytes = value.checked_mul(u128::from(factor)).ok_or_else(wrong)? / scale;
    u64::try_from(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("7", 7),
            ("7B", 7),
            ("64KiB", 65_536),
            ("1.5MB", 1_500_000),
            ("10 kB", 10_000),
            ("0.5KiB", 512),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse_size("18446744073709551615"), Ok(u64::MAX));
        for text in [
            "",
            "B",
            ".5MB",
            "1.",
            "1.MB",
            "-1",
            "1e3",
            "1XB",
            "1K",
            "18446744073709551616",
            "99999999TB",
            "1_000",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
