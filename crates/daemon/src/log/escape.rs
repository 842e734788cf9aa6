//! Names from files and from the topic, made safe for a line of log.
//!
//! What must never happen here: a name that breaks its line, moves the cursor, or looks like another name.

use std::fmt;

/// Shows a name: control characters, backslash and bytes that are not UTF-8 as `\xNN`, all else as it is.
pub fn escape_name(bytes: &[u8]) -> EscapedName<'_> {
    EscapedName(bytes)
}

/// See [`escape_name`].
#[derive(Clone, Copy)]
pub struct EscapedName<'a>(&'a [u8]);

impl fmt::Display for EscapedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            write_escaped(f, chunk.valid(), |c| c == '\\' || c.is_control())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for EscapedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes `text` with every character that `hide` names as `\xNN`, byte by byte.
pub(crate) fn write_escaped(
    out: &mut impl fmt::Write,
    text: &str,
    hide: impl Fn(char) -> bool,
) -> fmt::Result {
    let mut rest = text;
    while let Some(at) = rest.find(&hide) {
        out.write_str(&rest[..at])?;
        let character = rest[at..].chars().next().expect("find gave the place of a character");
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            write!(out, "\\x{byte:02x}")?;
        }
        rest = &rest[at + character.len_utf8()..];
    }
    out.write_str(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        escape_name(bytes).to_string()
    }

    #[test]
    fn names_cannot_break_a_line_or_pretend_to_be_another() {
        assert_eq!(escaped(b"dir/report.csv"), "dir/report.csv");
        assert_eq!(escaped("Übersicht 2026.csv".as_bytes()), "Übersicht 2026.csv");
        assert_eq!(escaped(b"a\nb\tc\x1b[2J\x7f"), "a\\x0ab\\x09c\\x1b[2J\\x7f");
        assert_eq!(escaped(b"back\\slash"), "back\\x5cslash");
        assert_eq!(escaped(b"\\x0a"), "\\x5cx0a");
        assert_eq!(escaped(b"\xff\xfe ok \xc3"), "\\xff\\xfe ok \\xc3");
        assert_eq!(escaped("\u{85}".as_bytes()), "\\xc2\\x85");
        assert_eq!(escaped(b""), "");
    }

    proptest::proptest! {
        #[test]
        fn the_escaped_form_is_one_line_and_reversible(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let text = escaped(&bytes);
            assert!(!text.chars().any(char::is_control));
            let mut back = Vec::new();
            let mut rest = text.as_str();
            while let Some(at) = rest.find("\\x") {
                back.extend_from_slice(&rest.as_bytes()[..at]);
                back.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).expect("two digits"));
                rest = &rest[at + 4..];
            }
            back.extend_from_slice(rest.as_bytes());
            assert_eq!(back, bytes);
        }
    }
}
