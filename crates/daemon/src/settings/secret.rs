//! Values that are kept elsewhere: `{file: PATH}`, `{env: NAME}` and `{credential: NAME}`.
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
    /// One of systemd's, by the unit's `LoadCredential=`.
    Credential(String),
}

/// Where systemd says that the credentials are.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// `LoadCredential=streamsend:FOLDER` puts this before the name of each file of the folder.
const CREDENTIAL_PREFIX: &str = "streamsend_";

/// The reference that `node` is, if it is one.
pub(crate) fn reference(node: &Node) -> Option<Secret> {
    let Data::Map(entries) = &node.data else { return None };
    let [(key, Node { data: Data::Scalar { text, .. }, .. })] = entries.as_slice() else { return None };
    match key.text.as_str() {
        "file" => Some(Secret::File(text.into())),
        "env" => Some(Secret::Environment(text.clone())),
        "credential" => Some(Secret::Credential(text.clone())),
        _ => None,
    }
}

/// The file of a credential of this process.
pub(crate) fn credential(
    name: &str,
    variable: impl FnOnce(&OsStr) -> Option<OsString>,
) -> Result<PathBuf, String> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(format!(
            "`{name}` cannot be a credential's name: write the name of a file in /etc/streamsend/credentials"
        ));
    }
    let Some(directory) = variable(OsStr::new(CREDENTIALS_DIRECTORY)).map(PathBuf::from) else {
        return Err(format!(
            "the credential {name} is there only for a daemon that systemd started: start the unit, or use {{file: PATH}}"
        ));
    };
    let candidates = [directory.join(name), directory.join(format!("{CREDENTIAL_PREFIX}{name}"))];
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        format!(
            "the unit has no credential {name}: put the file /etc/streamsend/credentials/{name} there and restart, or give the \
             unit LoadCredential={name}:PATH"
        )
    })
}

/// Fetches a secret; line ends behind it are left out.
pub(crate) fn resolve(
    secret: &Secret,
    variable: impl FnOnce(&OsStr) -> Option<OsString>,
) -> Result<String, String> {
    let read = |path: &Path| {
        read_bounded(path, SECRET_BYTES_MAX)
            .map_err(|error| format!("cannot read the secret in {}: {error}", path.display()))
    };
    let text = match secret {
        Secret::File(path) => read(path)?,
        Secret::Credential(name) => read(&credential(name, variable)?)?,
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
            Secret::Credential(name) => format!("the credential {name} is empty: write the secret there"),
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
        assert_eq!(read("{credential: X}"), Some(Secret::Credential("X".into())));
        for text in ["{file: /x, env: X}", "{other: x}", "file", "[file, x]", "{file: [x]}"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_credential_is_found_by_its_own_name_and_by_its_folders() {
        let directory = tempfile::tempdir().unwrap();
        let variable = |name: &OsStr| (name == "CREDENTIALS_DIRECTORY").then(|| directory.path().into());
        let secret = |name: &str| resolve(&Secret::Credential(name.into()), variable);
        assert!(secret("password").unwrap_err().contains("LoadCredential=password:PATH"));
        std::fs::write(directory.path().join("streamsend_password"), "from the folder\n").unwrap();
        assert_eq!(secret("password").unwrap(), "from the folder");
        std::fs::write(directory.path().join("password"), "its own\n").unwrap();
        assert_eq!(secret("password").unwrap(), "its own");
        for name in ["", "../password", "a/b", ".password"] {
            assert!(secret(name).unwrap_err().contains("cannot be a credential's name"), "{name}");
        }
        let outside = resolve(&Secret::Credential("password".into()), |_| None).unwrap_err();
        assert!(outside.contains("systemd"), "{outside}");
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
