//! YAML as a small tree with line numbers: the only module that knows the parser.
//!
//! Only what a configuration needs: mappings, lists, scalars as they were written. No anchors, aliases, tags, second documents.
//!
//! What must never happen here: a text that expands, nests or lasts without bound, or a value whose line is not known.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Largest text that is read, in bytes.
pub(crate) const BYTES_MAX: usize = 1 << 20;
/// Deepest nesting.
const DEPTH_MAX: usize = 16;

/// One value and the line it begins on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    Scalar {
        text: String,
        /// Without quotes: only then `null` is no text.
        plain: bool,
    },
    List(Vec<Node>),
    /// In the order of the file; may hold a key twice.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// What is wrong, and on which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct YamlError {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Node {
    /// A text that did not come from a file.
    pub(crate) fn text(text: impl Into<String>) -> Node {
        Node { line: 1, data: Data::Scalar { text: text.into(), plain: false } }
    }

    /// `null`, `~` or nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.data, Data::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.data {
            Data::Scalar { .. } => "a value",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }
}

/// Reads one document; `None` when there is nothing in it.
pub(crate) fn parse(text: &str) -> Result<Option<Node>, YamlError> {
    if text.len() > BYTES_MAX {
        let message = format!("the file is larger than {BYTES_MAX} bytes: this is not a configuration");
        return Err(YamlError { line: 1, message });
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.take(event, span.start.line())?,
            Err(error) => {
                let line = error.marker().line();
                return Err(YamlError { line, message: format!("this is not YAML: {}", error.info()) });
            }
        }
    }
    Ok(builder.root)
}

fn not_a_text(line: usize) -> YamlError {
    YamlError { line, message: "a key must be a text, not a list or mapping".into() }
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    documents: usize,
    open: Vec<Open>,
}

/// A list or mapping that is not complete yet.
struct Open {
    line: usize,
    data: Data,
    /// The key whose value comes next.
    key: Option<Key>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), YamlError> {
        let wrong = |message: &str| Err(YamlError { line, message: message.to_owned() });
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return wrong("a second document begins here (`---`): put everything into one");
                }
                Ok(())
            }
            Event::Alias(_) => {
                wrong("`*` begins an alias, which is not supported: write the value out, or put it in quotes")
            }
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                wrong(
                    "`&` begins an anchor, which is not supported: write the value out, or put it in quotes",
                )
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                wrong("`!` begins a tag, which is not supported: remove it, or put the value in quotes")
            }
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                self.value(Node { line, data: Data::Scalar { text: text.into_owned(), plain } })
            }
            Event::SequenceStart(..) => self.begin(line, Data::List(Vec::new())),
            Event::MappingStart(..) => self.begin(line, Data::Map(Vec::new())),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(done) => self.value(Node { line: done.line, data: done.data }),
                None => wrong("a list or mapping ends that never began"),
            },
        }
    }

    fn begin(&mut self, line: usize, data: Data) -> Result<(), YamlError> {
        if self.open.len() >= DEPTH_MAX {
            return Err(YamlError { line, message: format!("nested more than {DEPTH_MAX} deep") });
        }
        if matches!(self.open.last(), Some(Open { data: Data::Map(_), key: None, .. })) {
            return Err(not_a_text(line));
        }
        self.open.push(Open { line, data, key: None });
        Ok(())
    }

    fn value(&mut self, node: Node) -> Result<(), YamlError> {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { data: Data::List(list), .. }) => list.push(node),
            Some(Open { data: Data::Map(map), key, .. }) => match (key.take(), node.data) {
                (Some(name), data) => map.push((name, Node { line: node.line, data })),
                (None, Data::Scalar { text, .. }) => *key = Some(Key { line: node.line, text }),
                (None, _) => return Err(not_a_text(node.line)),
            },
            Some(Open { data: Data::Scalar { .. }, .. }) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    fn map(text: &str) -> Vec<(Key, Node)> {
        match parse(text).unwrap().unwrap().data {
            Data::Map(map) => map,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_know_their_lines_and_stay_as_written() {
        let map = map(
            "# a comment\nname: x\n\nlog.level: 'yes'\nlist:\n  - 0777\n  - \"~\"\n  - ~\nempty:\nflow: {a: 1, b: [x, y]}\n",
        );
        let lines: Vec<_> = map.iter().map(|(key, _)| (key.text.as_str(), key.line)).collect();
        assert_eq!(lines, [("name", 2), ("log.level", 4), ("list", 5), ("empty", 9), ("flow", 10)]);
        let Data::List(list) = &map[2].1.data else { panic!() };
        assert_eq!(list[0], Node { line: 6, data: Data::Scalar { text: "0777".into(), plain: true } });
        assert!(!list[1].is_null() && list[2].is_null() && map[3].1.is_null());
        assert_eq!(map[4].1.kind(), "a mapping");
    }

    #[test]
    fn a_key_may_come_twice() {
        let map = map("a: 1\na: 2\n");
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn nothing_is_nothing() {
        for text in ["", "# only a comment\n", "\n\n"] {
            assert_eq!(parse(text).unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn what_a_configuration_does_not_need_is_refused_with_its_line() {
        for (text, line, part) in [
            ("a: 1\nb: &x 2\n", 2, "anchor"),
            ("a: *x\n", 1, "unknown anchor"),
            ("a: 1\nb: !!str 2\n", 2, "tag"),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("a: 1\nb: [1, 2\n", 3, "not YAML"),
            ("a: 1\n  b: 2\n", 2, "not YAML"),
            ("? [a]\n: 1\n", 1, "key must be a text"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(part), "{text:?}: {error:?}");
            assert_eq!(error.line, line, "{text:?}: {error:?}");
        }
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert!(parse(&nested(DEPTH_MAX + 1)).unwrap_err().message.contains("deep"));
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"- ".repeat(100_000)).is_err());
        assert!(parse(&"{a: ".repeat(100_000)).is_err());
        assert!(parse(&"#".repeat(BYTES_MAX + 1)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[a-c:\\-\\[\\]{},&*!#|>'\"\n \t?~.]{0,40}") {
            let _ = parse(&text);
        }
    }
}
