//! Sizes, rates and durations as people write them, read and written.
//!
//! What must never happen here: a unit is guessed, or a number overflows.

use std::time::Duration;

/// Units of size, from large to small, for reading and writing.
const SIZES: [(&str, u64); 12] = [
    ("EiB", 1 << 60),
    ("EB", 1_000_000_000_000_000_000),
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
];

/// Units of time, from large to small, in milliseconds.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `64KiB`, `10MB`, `1.5GiB` or plain bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is not a size: write bytes, or a number with kB, MB, GB, KiB, MiB, GiB, such as 64KiB"
        )
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "" | "B" => 1,
        "KB" => 1_000,
        "k" | "K" | "M" | "G" | "T" => {
            let letter = unit.to_ascii_uppercase();
            let small = if letter == "K" { "kB".to_owned() } else { format!("{letter}B") };
            return Err(format!(
                "`{text}` could mean two sizes: write {number}{small} or {number}{letter}iB"
            ));
        }
        _ => SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
    };
    scale(number, factor).ok_or_else(wrong)
}

/// Reads `1MB/s`: a size per second, in bytes.
///
/// # Errors
/// What is wrong with the text, and an example.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a rate: write a size per second, such as 1MB/s");
    let size = text.strip_suffix("/s").ok_or_else(wrong)?;
    parse_size(size.trim_end()).map_err(|_| wrong())
}

/// Reads `250ms`, `5s`, `30m`, `2h`, `1d`, or `0`.
///
/// # Errors
/// What is wrong with the text, and an example.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is not a duration: write a number with ms, s, m, h or d, such as 250ms or 5s");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    if unit.is_empty() && number.bytes().all(|digit| digit == b'0') {
        return Ok(Duration::ZERO);
    }
    let unit = if unit == "min" { "m" } else { unit };
    let (_, factor) = TIMES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    scale(number, *factor).map(Duration::from_millis).ok_or_else(wrong)
}

/// Reads `1%` as 0.01; between 0 and 99.
pub(crate) fn parse_percent(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%')?.trim_end();
    // In millionths of a percent, so that nothing but plain decimals is taken.
    let millionths = scale(number, 1_000_000)?;
    (millionths <= 99_000_000).then_some(millionths as f64 / 100_000_000.0)
}

/// Writes the shortest form that is exact: `64KiB`, `10MB`, `123`.
pub(crate) fn show_size(bytes: u64) -> String {
    let exact = SIZES.iter().filter(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    match exact.min_by_key(|(_, factor)| bytes / factor) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// Writes the largest unit that is exact: `5s`, `250ms`.
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if milliseconds == 0 {
        return "0s".into();
    }
    let (unit, factor) = TIMES
        .iter()
        .find(|(_, factor)| milliseconds.is_multiple_of(*factor))
        .expect("1 ms divides everything");
    format!("{}{unit}", milliseconds / factor)
}

/// Digits with at most one point in front, the unit behind; blanks between them are allowed.
fn split(text: &str) -> Option<(&str, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let valid = number.starts_with(|c: char| c.is_ascii_digit())
        && number.ends_with(|c: char| c.is_ascii_digit())
        && number.matches('.').count() <= 1;
    valid.then(|| (number, unit.trim_start()))
}

/// A plain decimal times `factor`, rounded down; `None` when it is not one, or too large.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.ends_with('.') {
        return None;
    }
    if whole.is_empty()
        || fraction.len() > 9
        || !(whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let ten_to = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    u64::try_from(digits.checked_mul(u128::from(factor))? / ten_to).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("123B", 123),
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("10MB", 10_000_000),
            ("1kB", 1_000),
            ("1KB", 1_000),
            ("1.5GiB", 1_610_612_736),
            ("16TiB", 17_592_186_044_416),
            ("15EiB", 17_293_822_569_102_704_640),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        for text in
            ["", "x", "-1", "1.2.3MB", ".5MB", "5.MB", "1 0", "64KIB", "1mb", "99EiB", "1e3", "٣", "1MB/s"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
        let error = parse_size("64K").unwrap_err();
        assert!(error.contains("64kB or 64KiB"), "{error}");
        assert_eq!(show_size(65_536), "64KiB");
        assert_eq!(show_size(1_000_000), "1MB");
        assert_eq!(show_size(1_032_192), "1008KiB");
        assert_eq!(show_size(17_592_186_044_416), "16TiB");
    }

    #[test]
    fn rates() {
        assert_eq!(parse_rate("1MB/s"), Ok(1_000_000));
        assert_eq!(parse_rate("1 MB /s"), Ok(1_000_000));
        for text in ["1MB", "1MB/h", "fast", "/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("5s", 5_000),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("2min", 120_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for text in ["", "5", "nonsense", "5 seconds", "-1s", "5S", "99999999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(3_600)), "1h");
        assert_eq!(show_duration(Duration::from_millis(1_500)), "1500ms");
    }

    #[test]
    fn percent() {
        assert_eq!(parse_percent("1%"), Some(0.01));
        assert_eq!(parse_percent("0.5 %"), Some(0.005));
        for text in ["1", "100%", "-1%", "%", "1e1%", "1.%"] {
            assert_eq!(parse_percent(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,12}") {
            let _ = (parse_size(&text), parse_rate(&text), parse_duration(&text), parse_percent(&text));
        }

        #[test]
        fn what_is_written_is_read_back(number in proptest::num::u64::ANY) {
            assert_eq!(parse_size(&show_size(number)), Ok(number));
            let duration = Duration::from_millis(number >> 8);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }
}
