//! What the manual promises about the program, held against the program.
//!
//! What must never happen here: a line of the log that calls for a person who then finds nothing about it.

use std::path::Path;

/// Shorter pieces of a message say too little to be looked for.
const PIECE_BYTES_MIN: usize = 14;

#[test]
fn every_warning_and_error_is_explained() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(top.join("docs/operations.md")).unwrap().replace('`', "");
    let mut looked_for = 0;
    let mut unexplained = Vec::new();
    for program in ["daemon", "downloader", "kafka", "uploader"] {
        for entry in walkdir::WalkDir::new(top.join("crates").join(program).join("src")) {
            let path = entry.unwrap().into_path();
            let is_test = path.components().any(|part| part.as_os_str() == "tests")
                || path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing");
            if is_test || path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for message in messages(source.split("\nmod tests {").next().unwrap_or_default()) {
                let message = message.replace('`', "");
                let piece = longest_piece(&message);
                if piece.len() >= PIECE_BYTES_MIN {
                    looked_for += 1;
                    if !page.contains(piece.trim()) {
                        unexplained.push(format!("{}: {message}", path.display()));
                    }
                }
            }
        }
    }
    assert!(looked_for > 60, "only {looked_for} messages were found: does this test still read the sources?");
    assert!(unexplained.is_empty(), "docs/operations.md says nothing about:\n{}", unexplained.join("\n"));
}

/// The first string literal of each `error!(…)` and `warn!(…)`, as it is printed.
fn messages(source: &str) -> Vec<String> {
    let calls = source.match_indices("error!(").chain(source.match_indices("warn!("));
    let literals = calls.filter_map(|(at, name)| {
        let rest = &source[at + name.len()..];
        // `target: "kafka",` is not the message.
        let rest = rest.trim_start().strip_prefix("target: \"kafka\",").unwrap_or(rest);
        let literal = &rest[rest.find('"')? + 1..];
        // Up to the first quote that is no part of it.
        let mut end = literal.find('"')?;
        while literal[..end].ends_with('\\') {
            end += 1 + literal[end + 1..].find('"')?;
        }
        Some(joined(&literal[..end]))
    });
    literals.collect()
}

/// Without the line ends that a backslash takes away.
fn joined(literal: &str) -> String {
    let mut lines = literal.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start())
}

fn longest_piece(message: &str) -> &str {
    let pieces = message.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, rest)| rest));
    pieces.max_by_key(|piece| piece.len()).unwrap_or_default()
}
