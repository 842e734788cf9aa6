//! One source of values (file, environment, `--set`, flags), read against the table.
//!
//! Reading goes on after a mistake: all of them are reported at once.
//!
//! What must never happen here: a value that is dropped in silence, or a secret in a mistake.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::kind::{Kind, Value};
use super::origin::{Mistake, Origin};
use super::rules::{check_property_name, is_secret_property};
use super::secret::{self, Secret};
use super::table::{KAFKA_PREFIX, Property, TABLE, VARIABLE_PREFIX, find, properties, variable};
use super::types::Program;
use super::yaml::{self, Data, Key, Node};

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Setting {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
    /// Never shown.
    pub(crate) secret: bool,
    /// A mistake was reported; the value means nothing.
    pub(crate) invalid: bool,
}

/// The values of one entry of the list of spools, by full key (`spool.settle`).
pub(crate) type Values = BTreeMap<&'static str, Setting>;

/// One entry of the list of spools, and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SpoolEntry {
    pub(crate) origin: Origin,
    pub(crate) values: Values,
}

/// What one source said.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Layer {
    /// By key; `spool.…` here holds for every spool.
    pub(crate) values: Values,
    /// librdkafka's, without `kafka.`.
    pub(crate) kafka: BTreeMap<String, Setting>,
    pub(crate) spools: Option<Vec<SpoolEntry>>,
}

/// Variables that begin like a key and are none: they belong to builds and tests.
const OTHER_VARIABLES: &[&str] =
    &["STREAMSEND_LICENSE_PUBLIC_KEY", "STREAMSEND_BLESS", "STREAMSEND_BUILD", "STREAMSEND_GIT"];

/// Entries of the list of spools.
const SPOOLS_MAX: usize = 1000;
/// How alike two keys must be for one to be suggested for the other, 0 to 1.
const ALIKE: f64 = 0.6;

/// Reads sources and collects mistakes.
pub(crate) struct Reader<'a> {
    /// `None`: the keys of both programs are taken.
    pub(crate) program: Option<Program>,
    /// All of the process's environment, for secrets.
    pub(crate) environment: &'a [(OsString, OsString)],
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) warnings: Vec<String>,
}

impl Reader<'_> {
    fn mistake(&mut self, origin: &Origin, key: &str, message: impl Into<String>) {
        self.mistakes.push(Mistake::new(origin.clone(), key, message));
    }

    fn knows(&self, property: &Property) -> bool {
        self.program.is_none_or(|program| property.belongs_to(program))
    }

    /// Reads a configuration file; one that cannot be read is a mistake.
    pub(crate) fn file(&mut self, path: &Path) -> Layer {
        let mut layer = Layer::default();
        let origin = |line| Origin::File { path: path.to_path_buf(), line };
        let text = match secret::read_bounded(path, yaml::BYTES_MAX) {
            Ok(text) => text,
            Err(error) => {
                let message =
                    format!("cannot read the configuration: {error}: check the path and its rights");
                self.mistakes.push(Mistake::missing(Some(path), "", message));
                return layer;
            }
        };
        match yaml::parse(&text) {
            Err(error) => self.mistake(&origin(error.line), "", error.message),
            Ok(None) => {}
            Ok(Some(Node { data: Data::Map(entries), .. })) => {
                let mut seen = BTreeMap::new();
                self.entries(&mut layer, &mut seen, "", &entries, &origin(1));
            }
            Ok(Some(node)) => {
                let message = format!("{} stands here: write `key: value` lines", node.kind());
                self.mistake(&origin(node.line), "", message);
            }
        }
        layer
    }

    /// A mapping of the file: `log: {level: info}` is `log.level: info`.
    fn entries(
        &mut self,
        layer: &mut Layer,
        seen: &mut BTreeMap<String, usize>,
        prefix: &str,
        entries: &[(Key, Node)],
        origin: &Origin,
    ) {
        for (key, node) in entries {
            let full = format!("{prefix}{}", key.text);
            let origin = origin.at(key.line);
            let group = format!("{full}.");
            let is_group = may_be_group(&full);
            match &node.data {
                Data::Map(inner) if is_group && secret::reference(node).is_none() => {
                    self.entries(layer, seen, &group, inner, &origin);
                    continue;
                }
                _ if is_group && !full.starts_with(KAFKA_PREFIX) => {
                    if !node.is_null() {
                        let message =
                            format!("{} stands here: write keys below it, or {group}… lines", node.kind());
                        self.mistake(&origin, &full, message);
                    }
                    continue;
                }
                _ => {}
            }
            if let Some(first) = seen.insert(full.clone(), key.line) {
                self.mistake(&origin, &full, format!("given twice, first on line {first}: keep one of them"));
                continue;
            }
            self.take(layer, &full, node, &origin);
        }
    }

    /// The variables of ours. Keys of the other program are left alone: both may run in one environment.
    pub(crate) fn variables(&mut self) -> Layer {
        let mut layer = Layer::default();
        let environment = self.environment;
        for (name, value) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else { continue };
            if OTHER_VARIABLES.contains(&name) || name.starts_with("STREAMSEND_TEST_") {
                continue;
            }
            let origin = Origin::Environment(name.to_owned());
            let Some(key) = self.key_of_variable(name, &origin) else { continue };
            match value.to_str() {
                // What `X=${Y:-}` leaves behind where Y is not set.
                Some("") => {}
                Some(text) => self.text(&mut layer, &key, text, &origin),
                None => self.mistake(&origin, &key, "the value is not UTF-8: write it so"),
            }
        }
        layer
    }

    fn key_of_variable(&mut self, name: &str, origin: &Origin) -> Option<String> {
        if let Some(property) = TABLE.iter().find(|property| property.variable() == name) {
            return self.knows(property).then(|| property.key.to_owned());
        }
        let rest = &name[VARIABLE_PREFIX.len()..];
        if let Some(property) = rest.strip_prefix("KAFKA__") {
            return Some(format!("{KAFKA_PREFIX}{}", property.to_ascii_lowercase().replace('_', ".")));
        }
        let known: Vec<String> = TABLE.iter().filter(|p| self.knows(p)).map(|p| variable(p.key)).collect();
        let nearest = nearest(name, known.iter().map(String::as_str));
        // Something of another tool may begin with the same word; a mistyped key must not be overlooked.
        if rest.contains("__") || nearest.is_some_and(|(_, alike)| alike > 0.85) {
            let hint = nearest.map_or(String::new(), |(name, _)| format!("did you mean {name}? "));
            self.mistake(origin, "", format!("unknown variable: {hint}Remove it, or correct its name"));
        } else {
            self.warnings.push(format!("{name}: this variable means nothing to Streamsend"));
        }
        None
    }

    /// `KEY=VALUE` of `--set`; a later one of the same key holds.
    pub(crate) fn sets(&mut self, sets: &[String]) -> Layer {
        let mut layer = Layer::default();
        for set in sets {
            match set.split_once('=') {
                Some((key, value)) => self.text(&mut layer, key.trim(), value, &Origin::Set),
                None => self.mistake(&Origin::Set, "", format!("`{set}` has no `=`: write --set KEY=VALUE")),
            }
        }
        layer
    }

    /// Flags that stand for properties.
    pub(crate) fn flags(&mut self, flags: &[(&'static Property, Vec<String>)]) -> Layer {
        let mut layer = Layer::default();
        for (property, values) in flags {
            let origin = Origin::Flag(format!("--{}", property.flag.unwrap_or(property.key)));
            if property.kind == Kind::Spools {
                let list = values.iter().map(Node::text).collect();
                self.take(&mut layer, property.key, &Node { line: 1, data: Data::List(list) }, &origin);
            } else if let Some(value) = values.last() {
                self.text(&mut layer, property.key, value, &origin);
            }
        }
        layer
    }

    /// A text from outside the file: a mapping or list is written as in YAML.
    fn text(&mut self, layer: &mut Layer, key: &str, text: &str, origin: &Origin) {
        let lists =
            matches!(find(key).map(|property| property.kind), Some(Kind::Globs | Kind::Names | Kind::Spools));
        let node = match yaml::parse(text) {
            Ok(Some(node)) => match node.data {
                Data::List(_) if lists => node,
                Data::Map(_) if key == "spool" || secret::reference(&node).is_some() => node,
                _ => Node::text(text),
            },
            _ => Node::text(text),
        };
        self.take(layer, key, &node, origin);
    }

    fn take(&mut self, layer: &mut Layer, key: &str, node: &Node, origin: &Origin) {
        if key == "spool" && self.program != Some(Program::Downloader) {
            layer.spools = self.spools(node, origin);
            return;
        }
        if let Some(property) = key.strip_prefix(KAFKA_PREFIX) {
            if let Err(message) = check_property_name(property) {
                self.mistake(origin, key, message);
                return;
            }
            let kind = find(key).map_or(Kind::Kafka, |known| known.kind);
            if let Some(mut setting) = self.setting(key, kind, node, origin) {
                setting.secret |= is_secret_property(property);
                layer.kafka.insert(property.to_owned(), setting);
            }
            return;
        }
        match find(key) {
            Some(property) if self.knows(property) => {
                if let Some(setting) = self.setting(key, property.kind, node, origin) {
                    layer.values.insert(property.key, setting);
                }
            }
            Some(property) => {
                let owner = property.program.map_or("", Program::as_str);
                self.mistake(origin, key, format!("this is a property of the {owner}: remove it here"));
            }
            None => {
                let message = self.unknown(key);
                self.mistake(origin, key, message);
            }
        }
    }

    fn unknown(&self, key: &str) -> String {
        let known = || TABLE.iter().filter(|property| self.knows(property)).map(|property| property.key);
        // `settle` for `spool.settle`, `bootstrap.servers` for `kafka.bootstrap.servers`.
        let tail = known().find(|known| known.strip_suffix(key).is_some_and(|rest| rest.ends_with('.')));
        match tail.or_else(|| nearest(key, known()).map(|(key, _)| key)) {
            Some(known) => format!("unknown key: did you mean {known}?"),
            None => "unknown key: remove it, or see the list of keys in docs/configuration.md".into(),
        }
    }

    /// One value; `None` when it says nothing (`null`).
    fn setting(&mut self, key: &str, kind: Kind, node: &Node, origin: &Origin) -> Option<Setting> {
        if node.is_null() {
            return None;
        }
        let reference = secret::reference(node);
        if let (Some(Secret::Credential(name)), Kind::Path | Kind::OptionalPath) = (&reference, kind) {
            // Where a path is wanted, the credential's file is what is meant.
            return Some(self.credential_path(key, name, origin));
        }
        let secret = reference.map(|reference| self.resolve(&reference));
        let result = match &secret {
            Some(Err(message)) => Err((None, message.clone())),
            // The value must not show up in the message.
            Some(Ok(text)) => kind.parse_text(text).map_err(|_| {
                (None, format!("the secret's value is not right: it must be {}", kind.expects()))
            }),
            None => kind.parse_node(node),
        };
        let mut setting = Setting {
            value: Value::Nothing,
            origin: origin.clone(),
            secret: secret.is_some(),
            invalid: false,
        };
        match result {
            Ok(value) => setting.value = value,
            Err((line, message)) => {
                let origin = line.map_or_else(|| origin.clone(), |line| origin.at(line));
                self.mistake(&origin, key, message);
                setting.invalid = true;
            }
        }
        Some(setting)
    }

    fn resolve(&self, reference: &Secret) -> Result<String, String> {
        secret::resolve(reference, |name| self.variable(name))
    }

    fn variable(&self, name: &OsStr) -> Option<OsString> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    fn credential_path(&mut self, key: &str, name: &str, origin: &Origin) -> Setting {
        let found = secret::credential(name, |variable| self.variable(variable));
        let invalid = found.is_err();
        let value = found.map_or_else(
            |message| {
                self.mistake(origin, key, message);
                Value::Nothing
            },
            Value::Path,
        );
        Setting { value, origin: origin.clone(), secret: false, invalid }
    }

    /// A path, a mapping, or a list of these.
    fn spools(&mut self, node: &Node, origin: &Origin) -> Option<Vec<SpoolEntry>> {
        if node.is_null() {
            return None;
        }
        let nodes = match &node.data {
            Data::List(list) => list.as_slice(),
            _ => std::slice::from_ref(node),
        };
        if nodes.is_empty() {
            self.mistake(origin, "spool", "the list is empty: write at least one folder");
        }
        if nodes.len() > SPOOLS_MAX {
            self.mistake(origin, "spool", format!("more than {SPOOLS_MAX} entries: use fewer, wider ones"));
            return Some(Vec::new());
        }
        let mut entries = Vec::new();
        for node in nodes {
            let origin = if matches!(node.data, Data::Scalar { .. }) && nodes.len() == 1 {
                origin.clone()
            } else {
                origin.at(node.line)
            };
            entries.push(SpoolEntry { values: self.spool(node, &origin), origin });
        }
        Some(entries)
    }

    fn spool(&mut self, node: &Node, origin: &Origin) -> Values {
        let mut values = Values::new();
        match &node.data {
            Data::Scalar { .. } => {
                if let Some(property) = find("spool.directory") {
                    let setting = self.setting("spool.directory", property.kind, node, origin);
                    values.extend(setting.map(|setting| (property.key, setting)));
                }
            }
            Data::List(_) => self.mistake(origin, "spool", "a list in the list: write a path or a mapping"),
            Data::Map(entries) => {
                for (key, node) in entries {
                    self.spool_value(&mut values, key, node, &origin.at(key.line));
                }
            }
        }
        values
    }

    fn spool_value(&mut self, values: &mut Values, key: &Key, node: &Node, origin: &Origin) {
        let name = key.text.strip_prefix("spool.").unwrap_or(&key.text);
        let property = properties(Program::Uploader).find(|property| property.spool_key() == Some(name));
        let Some(property) = property else {
            let known = properties(Program::Uploader).filter_map(Property::spool_key);
            let hint = nearest(name, known).map_or_else(
                || "remove it, or see the list of keys in docs/configuration.md".to_owned(),
                |(known, _)| format!("did you mean {known}?"),
            );
            self.mistake(origin, &format!("spool.{name}"), format!("unknown key: {hint}"));
            return;
        };
        if values.contains_key(property.key) {
            self.mistake(origin, property.key, "given twice in this entry: keep one of them");
            return;
        }
        if let Some(setting) = self.setting(property.key, property.kind, node, origin) {
            values.insert(property.key, setting);
        }
    }
}

/// Whether keys may be nested below this one. What names a secret takes a reference, and a mistyped one is no group.
fn may_be_group(key: &str) -> bool {
    if key == "spool" || find(key).is_some() {
        return false;
    }
    match key.strip_prefix(KAFKA_PREFIX) {
        Some(property) => !is_secret_property(property),
        None => TABLE
            .iter()
            .any(|property| property.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))),
    }
}

/// The most similar of `known`, if it is similar at all, and how much.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<(&'a str, f64)> {
    // Each letter more or less is an edit, so lengths alone rule most of them out; comparing takes the product of both.
    let len = key.chars().count() as f64;
    let may_be_alike = |candidate: &&str| {
        let other = candidate.chars().count() as f64;
        len.min(other) >= ALIKE * len.max(other)
    };
    known
        .filter(may_be_alike)
        .map(|candidate| (candidate, strsim::normalized_damerau_levenshtein(key, candidate)))
        .filter(|(_, alike)| *alike >= ALIKE)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
}
