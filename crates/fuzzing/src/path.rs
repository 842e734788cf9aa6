//! Paths from the topic, names, and where the landing template puts a file.
//!
//! Promises: what is accepted stays below the folder it is joined to, has no `..`, is not absolute, does not lie in
//! `.streamsend`, and fits the limits of Linux; and nothing that is harmless is refused for another reason.

use crate::input::Input;
use crate::{allocation::bounded, headers};
use protocol::{Name, RelativePath};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let template_bytes = input.blob();
    let wanted = bounded("a path", 1024 + 2 * template_bytes.len(), || RelativePath::new(template_bytes));
    if let Ok(path) = &wanted {
        check(path);
    }
    if let Ok(text) = std::str::from_utf8(template_bytes)
        && let Ok(name) = Name::new(text)
    {
        let path = RelativePath::new(name.as_str()).expect("a name is a component");
        check(&path);
        assert_eq!(path.components().count(), 1);
    }
    let mut header = headers::header(&mut input);
    if let Ok(path) = RelativePath::new(input.rest()) {
        header.file.path = path;
    }
    let template = String::from_utf8_lossy(template_bytes);
    let limit = 16
        * (1024 + template.len() + header.file.path.as_bytes().len())
        * (1 + template.matches('{').count());
    let landed =
        bounded("a destination", limit, || downloader::destination(&template, &header, "2026-11-24"));
    if let Ok(path) = landed {
        check(&path);
    }
}

fn check(path: &RelativePath) {
    let bytes = path.as_bytes();
    assert!(!bytes.is_empty() && bytes.len() < 4096 && !bytes.contains(&0));
    let parts: Vec<Component<'_>> = Path::new(OsStr::from_bytes(bytes)).components().collect();
    assert!(
        parts.iter().all(|part| matches!(part, Component::Normal(name) if name.len() <= 255)),
        "{path:?}"
    );
    assert_eq!(parts.len(), path.components().count(), "{path:?} means the same to the system");
    assert_ne!(parts.first().map(|part| part.as_os_str()), Some(OsStr::new(".streamsend")), "{path:?}");
    let joined = Path::new("/out").join(OsStr::from_bytes(bytes));
    assert!(joined.starts_with("/out") && joined != Path::new("/out"), "{path:?}");
}

pub fn seeds() -> Vec<Vec<u8>> {
    let all: [&[u8]; 14] = [
        b"{uploader}/{path}",
        b"{spool}/{date}/{path}",
        b"{path}",
        b"a/../../b",
        b"/etc/passwd",
        b".streamsend/{path}",
        b"{path",
        b"..",
        b"a//b",
        b"./a",
        b"x\0y",
        b"{{path}}/..{spool}",
        &[b'n'; 256],
        b"\xff\xfe",
    ];
    let seed = |template: &&[u8]| {
        let len = [template.len() as u8, (template.len() >> 8) as u8];
        [&len[..], template, &[3; 24], b"dir/../file"].concat()
    };
    all.iter().map(seed).collect()
}
