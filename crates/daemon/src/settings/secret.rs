//! Values that are kept elsewhere: `{file: PATH}` and `{env: NAME}`.
//!
//! What must never happen here: a value in an error text.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::yaml::{Data, Node};

/// Longest secret, in bytes; certificates and keys fit.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    File(PathBuf),
    Environment(String),
}

/// The reference that `node` is, if it is one.
pub(crate) fn reference(node: &Node) -> Option<Secret> {
    let Data::Map(entries) = &node.data else { return None };
    let [(key, Node { data: Data::Scalar { text, .. }, .. })] = entries.as_slice() else { return None };
    match key.text.as_str() {
        "file" => Some(Secret::File(text.into())),
        "env" => Some(Secret::Environment(text.clone())),
        _ => None,
    }
}

/// Fetches a secret; line ends behind it are left out.
pub(crate) fn resolve(
    secret: &Secret,
    variable: impl FnOnce(&OsStr) -> Option<OsString>,
) -> Result<String, String> {
    let text = match secret {
        Secret::File(path) => read_bounded(path, SECRET_BYTES_MAX)
            .map_err(|error| format!("cannot read the secret in {}: {error}", path.display()))?,
        Secret::Environment(name) => {
            let value = variable(OsStr::new(name)).ok_or_else(|| {
                format!(
                    "the environment variable {name} of the secret is not set: set it, or use {{file: PATH}}"
                )
            })?;
            value
                .into_string()
                .map_err(|_| format!("the secret in the environment variable {name} is not UTF-8"))?
        }
    };
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(match secret {
            Secret::File(path) => format!("the secret in {} is empty: write it there", path.display()),
            Secret::Environment(name) => {
                format!("the secret in the environment variable {name} is empty: set it")
            }
        });
    }
    Ok(text.to_owned())
}

/// A text file of at most `bytes_max`.
pub(crate) fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    if bytes.len() > bytes_max {
        return Err(invalid(format!("larger than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| invalid("not UTF-8 text".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    fn read(text: &str) -> Option<Secret> {
        reference(&super::super::yaml::parse(text).unwrap().unwrap())
    }

    #[test]
    fn references_are_told_from_mappings() {
        assert_eq!(read("{file: /x}"), Some(Secret::File("/x".into())));
        assert_eq!(read("{env: X}"), Some(Secret::Environment("X".into())));
        for text in ["{file: /x, env: X}", "{other: x}", "file", "[file, x]", "{file: [x]}"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn line_ends_are_no_part_of_a_secret_and_errors_do_not_show_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let none = |_: &OsStr| None;
        std::fs::write(&path, " pass word \r\n\n").unwrap();
        assert_eq!(resolve(&Secret::File(path.clone()), none).unwrap(), " pass word ");
        for content in [&b"\n"[..], b"hunter\xff", &[b'x'; SECRET_BYTES_MAX + 1]] {
            std::fs::write(&path, content).unwrap();
            let error = resolve(&Secret::File(path.clone()), none).unwrap_err();
            assert!(error.contains("secret") && !error.contains("hunter"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(resolve(&Secret::File(path), none).unwrap_err().contains("No such file"));
        let variable = Secret::Environment("PASSWORD".into());
        assert_eq!(resolve(&variable, |_| Some("x\n".into())).unwrap(), "x");
        assert!(resolve(&variable, none).unwrap_err().contains("PASSWORD"));
    }
}
