//! Where a file goes below the output folder: the landing template.
//!
//! What must never happen here: a destination that is not a safe relative path. The result passes the same check as a
//! path from the topic.

use protocol::{Header, PathError, RelativePath};

/// The destination of a file, before conflicts.
///
/// `template` knows `{uploader}`, `{spool}`, `{date}` (UTC day of delivery, `2026-11-24`) and `{path}`; the
/// configuration has checked it.
pub fn destination(template: &str, header: &Header, date: &str) -> Result<RelativePath, PathError> {
    let (mut out, mut rest) = (Vec::new(), template.trim_matches('/'));
    while let Some(open) = rest.find('{') {
        out.extend_from_slice(&rest.as_bytes()[..open]);
        rest = &rest[open..];
        let known: [(&str, &[u8]); 4] = [
            ("{uploader}", header.uploader.as_str().as_bytes()),
            ("{spool}", header.spool.as_str().as_bytes()),
            ("{date}", date.as_bytes()),
            ("{path}", header.file.path.as_bytes()),
        ];
        match known.iter().find(|(word, _)| rest.starts_with(word)) {
            Some((word, value)) => {
                out.extend_from_slice(value);
                rest = &rest[word.len()..];
            }
            None => {
                out.push(b'{');
                rest = &rest[1..];
            }
        }
    }
    out.extend_from_slice(rest.as_bytes());
    RelativePath::new(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use protocol::*;

    fn landed(template: &str, path: &[u8]) -> Result<Vec<u8>, PathError> {
        let header = Header {
            transfer: TransferId { uploader: UploaderId([0; 16]), incarnation: Incarnation(0), sequence: 0 },
            attempt: Attempt(0),
            closed_below: 0,
            uploader: Name::new("plant").unwrap(),
            spool: Name::new("in").unwrap(),
            file: FileMeta {
                path: RelativePath::new(path).unwrap(),
                size: 0,
                mtime_seconds: 0,
                mtime_nanos: 0,
                mode: 0,
            },
            chunk_size: 1024,
            first_partition: 0,
            partition_count: 1,
        };
        destination(template, &header, "2026-11-24").map(|path| path.as_bytes().to_vec())
    }

    #[test]
    fn the_template_is_filled() {
        assert_eq!(landed("{uploader}/{path}", b"a/b").unwrap(), b"plant/a/b");
        assert_eq!(landed("x/{date}/{spool}-{path}", b"a").unwrap(), b"x/2026-11-24/in-a");
        assert_eq!(
            landed("{path}", b"{uploader}").unwrap(),
            b"{uploader}",
            "a name is never taken as a template"
        );
    }

    #[test]
    fn a_destination_is_checked_again() {
        assert_eq!(landed(".streamsend/{path}", b"a"), Err(PathError::WorkDirectory));
        let deep = [b"d/".repeat(2040), b"f".to_vec()].concat();
        assert!(matches!(landed("{uploader}/{spool}/xxxxxxx/{path}", &deep), Err(PathError::TooLong(_))));
    }
}
