//! All sources together: flag, then `--set`, then environment, then file, then default. One order, everywhere.
//!
//! What must never happen here: settings are built although a mistake was found.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::kind::{Kind, Value};
use super::layer::{Layer, Reader, Setting, SpoolEntry, Values};
use super::origin::{Mistake, Origin};
use super::rules::make_name;
use super::table::{Preset, Property, TABLE, find, properties};
use super::types::Program;

/// What settings are made from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// `--config`; it must exist.
    pub(crate) config: Option<PathBuf>,
    /// Used if there is no `config`, and it exists.
    pub(crate) default_config: Option<PathBuf>,
    /// `KEY=VALUE` of each `--set`.
    pub(crate) sets: Vec<String>,
    /// The flags that were given, with their texts.
    pub(crate) flags: Vec<(&'static Property, Vec<String>)>,
    /// The whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

impl Sources {
    /// With this process's environment and the program's usual file.
    pub(crate) fn of_process(program: Program) -> Sources {
        Sources {
            default_config: Some(program.default_config()),
            environment: std::env::vars_os().collect(),
            ..Sources::default()
        }
    }

    /// The file that will be read.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| self.default_config.clone().filter(|path| path.exists()))
    }
}

/// Every value with its origin, mistakes beside it.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) program: Program,
    pub(crate) file: Option<PathBuf>,
    pub(crate) values: Values,
    pub(crate) kafka: BTreeMap<String, Setting>,
    pub(crate) spools: Vec<SpoolEntry>,
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) warnings: Vec<String>,
}

/// Reads all sources and lets the strongest hold.
pub(crate) fn resolve(program: Program, sources: &Sources) -> Resolved {
    let mut reader = Reader {
        program: Some(program),
        environment: &sources.environment,
        mistakes: Vec::new(),
        warnings: Vec::new(),
    };
    let file = sources.file();
    let layers = read(&mut reader, sources, file.as_deref());
    let Reader { mistakes, warnings, .. } = reader;
    let mut resolved = merge(program, layers, file, unit_state_directory(&sources.environment));
    resolved.mistakes = mistakes;
    resolved.warnings = warnings;
    resolved.find_what_is_missing();
    super::cross::check(&mut resolved);
    resolved.mistakes.sort_by_key(Mistake::order);
    resolved
}

/// The layers, the weakest first: file, environment, `--set`, flags.
pub(crate) fn read(reader: &mut Reader<'_>, sources: &Sources, file: Option<&Path>) -> [Layer; 4] {
    let from_file = file.map(|path| reader.file(path)).unwrap_or_default();
    let from_environment = reader.variables();
    let from_sets = reader.sets(&sources.sets);
    let from_flags = reader.flags(&sources.flags);
    [from_file, from_environment, from_sets, from_flags]
}

/// What systemd made for the unit by `StateDirectory=`: the default there, so that each instance of a template has its own.
fn unit_state_directory(environment: &[(OsString, OsString)]) -> Option<Setting> {
    const VARIABLE: &str = "STATE_DIRECTORY";
    let (_, value) = environment.iter().find(|(name, _)| name == VARIABLE)?;
    // Several are written with colons between, and none of them is meant more than the others.
    let path = value.to_str().filter(|text| text.starts_with('/') && !text.contains(':'))?;
    let origin = Origin::Environment(VARIABLE.to_owned());
    Some(Setting { origin, ..preset(Value::Path(path.into())) })
}

fn merge(
    program: Program,
    layers: [Layer; 4],
    file: Option<PathBuf>,
    state_directory: Option<Setting>,
) -> Resolved {
    let [from_file, stronger @ ..] = layers;
    let mut values = defaults(program);
    values.extend(state_directory.map(|setting| ("state_directory", setting)));
    let mut kafka = BTreeMap::new();
    if let Some(setting) = values.remove("kafka.bootstrap.servers") {
        kafka.insert("bootstrap.servers".to_owned(), setting);
    }
    // What a file says outside of the list holds for the entries that say nothing themselves.
    let (for_all, own) = split_spool(from_file.values);
    values.extend(own);
    kafka.extend(from_file.kafka);
    let mut list = from_file.spools;
    let mut overrides = Values::new();
    for layer in stronger {
        let (spool, own) = split_spool(layer.values);
        overrides.extend(spool);
        values.extend(own);
        kafka.extend(layer.kafka);
        list = layer.spools.or(list);
    }
    let spools = merge_spools(list, &for_all, &overrides);
    Resolved { program, file, values, kafka, spools, mistakes: Vec::new(), warnings: Vec::new() }
}

fn split_spool(values: Values) -> (Values, Values) {
    values.into_iter().partition(|(key, _)| key.starts_with("spool."))
}

/// Each entry: its own values over the file's for all, under those of flag, `--set` and environment, over the defaults.
fn merge_spools(list: Option<Vec<SpoolEntry>>, for_all: &Values, overrides: &Values) -> Vec<SpoolEntry> {
    let alone = || {
        let directory = overrides.get("spool.directory").or_else(|| for_all.get("spool.directory"))?;
        Some(vec![SpoolEntry { origin: directory.origin.clone(), values: Values::new() }])
    };
    let mut spools = list.or_else(alone).unwrap_or_default();
    for spool in &mut spools {
        let own = std::mem::take(&mut spool.values);
        spool.values.extend(preset_values(|property| property.spool_key().is_some()));
        spool.values.extend(for_all.clone());
        spool.values.extend(own);
        spool.values.extend(overrides.clone());
        if let Some(directory) = spool.values.get("spool.directory").filter(|setting| !setting.invalid)
            && let Value::Path(path) = &directory.value
            && let Some(name) = find("spool.name")
            && !spool.values.contains_key(name.key)
        {
            let component = absolute(path).file_name().map(|name| name.to_string_lossy().into_owned());
            let text = make_name(component.as_deref().unwrap_or(""));
            spool.values.insert(name.key, preset(Value::Text(text)));
        }
    }
    spools
}

fn preset(value: Value) -> Setting {
    Setting { value, origin: Origin::Default, secret: false, invalid: false }
}

fn preset_values(wanted: impl Fn(&Property) -> bool) -> Values {
    let mut values = Values::new();
    for property in TABLE.iter().filter(|property| wanted(property)) {
        if let Preset::Is(text) = property.preset {
            let value = property.kind.parse_text(text).expect("a test reads every default of the table");
            values.insert(property.key, preset(value));
        }
    }
    values
}

pub(crate) fn defaults(program: Program) -> Values {
    let mut values = preset_values(|property| property.belongs_to(program) && property.spool_key().is_none());
    values.insert("name", preset(Value::Text(make_name(&crate::host_name()))));
    values.insert("state_directory", preset(Value::Path(program.default_state_directory())));
    values
}

/// The path from the root on, nothing looked up.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

impl Resolved {
    fn find_what_is_missing(&mut self) {
        let file = self.file.clone();
        let missing = |key: &str, message: String| Mistake::missing(file.as_deref(), key, message);
        for property in properties(self.program) {
            let Preset::Required(example) = property.preset else { continue };
            let flag = property.flag.map_or(String::new(), |flag| format!(", or give --{flag}"));
            let message = format!("missing: add `{}: {example}`{flag}", property.key);
            let named_in_error = self.mistakes.iter().any(|mistake| mistake.key == property.key);
            if property.kind == Kind::Spools {
                if self.spools.is_empty() && !named_in_error {
                    self.mistakes.push(missing(property.key, message));
                }
            } else if property.spool_key().is_some() {
                for spool in self.spools.iter().filter(|spool| !spool.values.contains_key(property.key)) {
                    let message = format!("missing in this entry: add `directory: {example}`");
                    self.mistakes.push(Mistake::new(spool.origin.clone(), property.key, message));
                }
            } else if !self.values.contains_key(property.key) {
                self.mistakes.push(missing(property.key, message));
            }
        }
    }
}
