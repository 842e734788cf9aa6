//! Names and relative paths as they travel.
//!
//! What must never happen here: a value that, joined to a folder, could mean something outside that folder. Both types
//! are only made through their checking constructors.

use std::fmt;

/// The folder in the output that belongs to the downloader; no file from the topic may lie in it.
pub const WORK_DIRECTORY: &[u8] = b".streamsend";

/// Longest name of an uploader or spool, in bytes.
const NAME_MAX_BYTES: usize = 63;
/// Longest component of a path, in bytes (Linux `NAME_MAX`).
const COMPONENT_MAX_BYTES: usize = 255;
/// A path is shorter than this, in bytes (Linux `PATH_MAX`).
const PATH_END_BYTES: usize = 4096;

/// The name of an uploader, a downloader or a spool: 1–63 of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 63 of A-Z a-z 0-9 . _ - and begins with a letter or digit")]
pub struct NameError;

impl Name {
    /// Checks and takes a name.
    pub fn new(text: &str) -> Result<Name, NameError> {
        let bytes = text.as_bytes();
        let first = bytes.first().ok_or(NameError)?;
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if bytes.len() > NAME_MAX_BYTES || !first.is_ascii_alphanumeric() || !bytes.iter().all(allowed) {
            return Err(NameError);
        }
        Ok(Name(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A file's place below its spool: bytes, `/` between components, never absolute, never upward.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(Vec<u8>);

/// Why a path was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No bytes at all.
    #[error("the path is empty")]
    Empty,
    /// 4096 bytes or more.
    #[error("the path has {0} bytes, 4095 are allowed")]
    TooLong(usize),
    /// Starts with `/`.
    #[error("the path is absolute")]
    Absolute,
    /// Two slashes in a row or one at the end.
    #[error("the path has an empty component")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("the path has a component `.` or `..`")]
    DotComponent,
    /// A component above 255 bytes.
    #[error("the path has a component of {0} bytes, 255 are allowed")]
    ComponentTooLong(usize),
    /// A zero byte.
    #[error("the path has a zero byte")]
    Nul,
    /// Points into the downloader's own folder.
    #[error("the path begins with .streamsend, which belongs to the downloader")]
    WorkDirectory,
}

impl RelativePath {
    /// Checks and takes a path.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<RelativePath, PathError> {
        let bytes = bytes.into();
        check(&bytes)?;
        Ok(RelativePath(bytes))
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, first to last; never empty.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/')
    }

    /// The last component.
    pub fn file_name(&self) -> &[u8] {
        self.0.rsplit(|&b| b == b'/').next().unwrap_or(&self.0)
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

fn check(bytes: &[u8]) -> Result<(), PathError> {
    match bytes.first() {
        None => return Err(PathError::Empty),
        Some(b'/') => return Err(PathError::Absolute),
        Some(_) => {}
    }
    if bytes.len() >= PATH_END_BYTES {
        return Err(PathError::TooLong(bytes.len()));
    }
    if bytes.contains(&0) {
        return Err(PathError::Nul);
    }
    for (number, component) in bytes.split(|&b| b == b'/').enumerate() {
        match component {
            b"" => return Err(PathError::EmptyComponent),
            b"." | b".." => return Err(PathError::DotComponent),
            WORK_DIRECTORY if number == 0 => return Err(PathError::WorkDirectory),
            long if long.len() > COMPONENT_MAX_BYTES => return Err(PathError::ComponentTooLong(long.len())),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "A-1_b.c", "9x", &"n".repeat(63)] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "_a", "a/b", "a b", "ä", &"n".repeat(64), "a\0"] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hostile_paths_are_refused_by_name() {
        let cases: [(&[u8], PathError); 10] = [
            (b"", PathError::Empty),
            (b"/etc/passwd", PathError::Absolute),
            (b"a//b", PathError::EmptyComponent),
            (b"a/", PathError::EmptyComponent),
            (b"..", PathError::DotComponent),
            (b"a/../../b", PathError::DotComponent),
            (b"./a", PathError::DotComponent),
            (b"a\0b", PathError::Nul),
            (b".streamsend", PathError::WorkDirectory),
            (b".streamsend/partial/x", PathError::WorkDirectory),
        ];
        for (bytes, error) in cases {
            assert_eq!(RelativePath::new(bytes), Err(error));
        }
        assert_eq!(RelativePath::new(vec![b'x'; 256]), Err(PathError::ComponentTooLong(256)));
        assert_eq!(RelativePath::new(b"a/".repeat(2048)), Err(PathError::TooLong(4096)));
    }

    #[test]
    fn odd_but_harmless_paths_are_kept_as_bytes() {
        for good in [&b"a/.streamsend/b"[..], b"...", b"\xff\xfe", b"a\nb", b"-rf", &[b'x'; 255]] {
            assert_eq!(RelativePath::new(good).map(|p| p.as_bytes().to_vec()), Ok(good.to_vec()));
        }
    }
}
