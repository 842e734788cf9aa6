//! The samples in `etc/` and the page `docs/configuration.md`, made from the table. Tests compare them with the committed files;
//! `STREAMSEND_BLESS=1 cargo test -p daemon` writes them anew.
//!
//! What must never happen here: a sample that says something else than the program does.

use std::fmt::Write as _;

use super::kind::Kind;
use super::rules::refused_properties;
use super::table::{Preset, Property, TABLE, properties};
use super::types::Program;

/// Columns of the samples' explanations.
const WIDTH: usize = 100;

/// The commented sample of a program's configuration: every property with its explanation and its default.
///
/// A line that begins with `# ` explains; without its `#`, any other line says what holds anyway.
pub fn sample_file(program: Program) -> String {
    let mut text = String::new();
    let file = program.default_config();
    let header = format!(
        "Configuration of {}: {}. Every property is listed with its default; remove the # before a line to change it. Lines without # have no default. \
         Each can also be given by an environment variable (kafka.bootstrap.servers as \
         STREAMSEND_KAFKA__BOOTSTRAP_SERVERS) or by --set KEY=VALUE. Sizes are written 64KiB or 10MB, rates 1MB/s, durations 250ms, 5s, \
         2h; null stands for the default. In place of any value a secret may be kept elsewhere: {{file: PATH}}, {{env: NAME}} or {{credential: NAME}}. \
         Check with: streamsend check-config {program} --explain",
        program.executable(),
        file.display(),
    );
    push_comment(&mut text, "", &header);
    for property in properties(program).filter(|property| property.spool_key().is_none()) {
        text.push('\n');
        push_comment(&mut text, "", property.doc);
        match property.kind {
            Kind::Spools => push_spool(&mut text, property),
            _ if property.key == "state_directory" => {
                let directory = program.default_state_directory();
                push(&mut text, format_args!("#{}: {}\n", property.key, directory.display()));
            }
            _ => push(&mut text, format_args!("{}{}: {}\n", sign(property), property.key, in_yaml(property))),
        }
    }
    text
}

/// What has no default must be said, and the sample says it.
fn sign(property: &Property) -> &'static str {
    if matches!(property.preset, Preset::Required(_)) { "" } else { "#" }
}

fn push_spool(text: &mut String, spool: &Property) {
    push(text, format_args!("{}{}:\n", sign(spool), spool.key));
    for (index, property) in properties(Program::Uploader).filter(|p| p.spool_key().is_some()).enumerate() {
        let key = property.spool_key().unwrap_or(property.key);
        if index == 0 {
            push(text, format_args!("{}  - {key}: {}\n", sign(property), in_yaml(property)));
        } else {
            // With two signs: these stay explanations when the list is uncommented.
            push_comment(text, "#    ", property.doc);
            push(text, format_args!("#    {key}: {}\n", in_yaml(property)));
        }
    }
}

/// The default, or an example where there is none.
fn in_yaml(property: &Property) -> String {
    match property.preset {
        Preset::Found(_) => "null".into(),
        Preset::Is(text) | Preset::Required(text) if needs_quotes(property.kind, text) => {
            format!("\"{text}\"")
        }
        Preset::Is(text) | Preset::Required(text) => text.into(),
    }
}

/// A brace begins a mapping in YAML.
fn needs_quotes(kind: Kind, text: &str) -> bool {
    text.starts_with('{') && kind != Kind::CreateTopic
}

fn push_comment(text: &mut String, indent: &str, paragraph: &str) {
    let mut line = format!("{indent}#");
    for word in paragraph.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            push(text, format_args!("{line}\n"));
            line = format!("{indent}#");
        }
        line.push(' ');
        line.push_str(word);
    }
    push(text, format_args!("{line}\n"));
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Made from the table in crates/daemon/src/settings/table.rs: change that, then run
     STREAMSEND_BLESS=1 cargo test -p daemon -->

Both daemons read one YAML file: `/etc/streamsend/uploader.yaml` and `/etc/streamsend/downloader.yaml` if they exist, or the
one given by `--config`. The files in `etc/` list every property with its default.

One order of precedence holds everywhere: **flag, then `--set KEY=VALUE`, then environment, then file, then default**.
`streamsend check-config uploader --explain` (or `downloader`) reports all mistakes with their lines, and prints every value
with where it came from.

* Keys with a dot may be written in one piece or nested: `log.level: debug` is the same as `log: {level: debug}`.
* The environment variable of a key is `STREAMSEND_` and the key in capitals, with `__` for each dot. After
  `STREAMSEND_KAFKA__` every `_` is a dot: `STREAMSEND_KAFKA__BOOTSTRAP_SERVERS`. An empty variable counts as not set.
* Sizes are written `64KiB`, `10MB` or as bytes, rates `1MB/s`, durations `250ms`, `5s`, `30m`, `2h`, `1d`, times as in RFC 3339.
* `null` stands for the default.
* In place of any single value a secret may be kept elsewhere: `{file: PATH}` (line ends behind it are left out),
  `{env: NAME}` or `{credential: NAME}`, which is what systemd's `LoadCredential=` gave the daemon: with the units of the package each file NAME
  in `/etc/streamsend/credentials`, readable for root alone. Such a value is never shown, and neither is a `kafka.` property whose name speaks of a password, secret, token or key.
* An unknown key is a mistake. All mistakes are reported at once, each as `FILE:LINE: key: what is wrong, what to do`, and the daemon ends
  with exit code 78; a bad flag, or a bad value of a flag, is exit code 64.
";

const METRICS: &str = "
## Metrics

`listen` serves them under `/metrics`, as OpenMetrics. Every daemon has these; each program adds its own.

| name | meaning |
|---|---|
| `streamsend_files_queued`, `streamsend_files_under_way` | files waiting, and being transferred |
| `streamsend_files_done_total`, `streamsend_files_failed_total` | files finished since the start |
| `streamsend_file_bytes_done_total`, `streamsend_under_way_bytes` | bytes of files that are done, and done so far of the others |
| `streamsend_partition_in_flight_bytes` | by `partition`: sent or fetched, and not yet safe |
| `streamsend_partition_acknowledged_offset` | by `partition`, uploader |
| `streamsend_partition_staged_offset`, `streamsend_partition_settled_offset` | by `partition`, downloader |
| `streamsend_partition_high_watermark`, `streamsend_partition_lag_records` | by `partition`, where known |
| `streamsend_multi_partition` | 1 when new files go by multi-partition operation |
| `streamsend_license_valid`, `streamsend_license_days_left` | the licence |
| `streamsend_log_errors_total`, `streamsend_log_warnings_total` | lines written |
| `streamsend_uptime_seconds`, `streamsend_build_info` | the process |
| `streamsend_process_*` | processor time, memory, threads and files, as the kernel counts them |
";

/// The page `docs/configuration.md`.
pub fn documentation() -> String {
    let mut text = INTRODUCTION.to_owned();
    let sections: [(&str, Option<Program>, bool); 4] = [
        ("Both daemons", None, false),
        ("Uploader", Some(Program::Uploader), false),
        ("Each spool", Some(Program::Uploader), true),
        ("Downloader", Some(Program::Downloader), false),
    ];
    for (title, program, spool) in sections {
        push(&mut text, format_args!("\n## {title}\n"));
        if spool {
            text.push_str(
                "\nIn the file these are keys of an entry of the list `spool`, without `spool.`. Given by flag, `--set` or \
                 environment they\nhold for every spool, and come before the entries' own; written `spool.…` in the file, outside of \
                 the list, they hold for\nthe entries that have none of their own.\n",
            );
        }
        for property in TABLE.iter().filter(|p| p.program == program && p.spool_key().is_some() == spool) {
            push_property(&mut text, property);
        }
    }
    text.push_str("\n## librdkafka properties that are refused\n\n");
    text.push_str("Any other property of librdkafka passes through as `kafka.PROPERTY`. These would break a promise:\n\n");
    for (property, reason) in refused_properties() {
        push(&mut text, format_args!("* `kafka.{property}`: {reason}.\n"));
    }
    text.push_str(METRICS);
    text
}

fn push_property(text: &mut String, property: &Property) {
    push(text, format_args!("\n### `{}`\n\n{}\n\n", property.key, property.doc));
    let default = match property.preset {
        Preset::Is(value) => format!("`{value}`"),
        Preset::Found(how) => how.to_owned(),
        Preset::Required(example) => format!("none, it must be given, such as `{example}`"),
    };
    push(text, format_args!("* default: {default}\n* value: {}\n", property.kind.expects()));
    push(text, format_args!("* environment: `{}`\n", property.variable()));
    if let Some(flag) = property.flag {
        push(text, format_args!("* flag: `--{flag}`\n"));
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use std::path::{Path, PathBuf};

    use super::super::resolve::{Sources, resolve};
    use super::*;

    fn compare(file: &str, generated: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
        if std::env::var_os("STREAMSEND_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, generated).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == generated,
            "{file} is not what the table says: run STREAMSEND_BLESS=1 cargo test -p daemon, and look at the difference"
        );
    }

    #[test]
    fn the_committed_files_are_what_the_table_says() {
        for program in Program::ALL {
            compare(&format!("etc/{program}.yaml"), &sample_file(program));
        }
        compare("docs/configuration.md", &documentation());
    }

    fn uncomment(sample: &str) -> String {
        let lines = sample.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(' ') && !rest.starts_with("  ") => line,
            Some(rest) => rest,
            None => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_sample_without_its_signs_says_what_holds_anyway() {
        let directory = tempfile::tempdir().unwrap();
        for program in Program::ALL {
            let path: PathBuf = directory.path().join("sample.yaml");
            let sample = sample_file(program);
            let bare: Vec<&str> =
                sample.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
            let expected: &[&str] = match program {
                Program::Uploader => &["spool:", "  - directory: /var/spool/streamsend"],
                Program::Downloader => &["output: /srv/streamsend"],
            };
            assert_eq!(bare, expected, "all the rest is commented out");
            std::fs::write(&path, &sample).unwrap();
            let as_it_is = resolve(program, &Sources { config: Some(path.clone()), ..Sources::default() });
            assert_eq!(as_it_is.mistakes, [], "the {program} starts with the sample as it is");
            std::fs::write(&path, uncomment(&sample)).unwrap();
            let from_sample = resolve(program, &Sources { config: Some(path), ..Sources::default() });
            let required = match program {
                Program::Uploader => "spool=/var/spool/streamsend",
                Program::Downloader => "output=/srv/streamsend",
            };
            let defaults = resolve(program, &Sources { sets: vec![required.into()], ..Sources::default() });
            assert_eq!(from_sample.mistakes, [], "{program}");
            match program {
                Program::Uploader => {
                    assert_eq!(from_sample.uploader().unwrap(), defaults.uploader().unwrap());
                }
                Program::Downloader => {
                    assert_eq!(from_sample.downloader().unwrap(), defaults.downloader().unwrap());
                }
            }
            for property in properties(program) {
                let key = property.spool_key().unwrap_or(property.key);
                assert!(sample.contains(&format!("{key}: ")) || property.kind == Kind::Spools, "{key}");
            }
        }
    }

    #[test]
    fn the_page_has_every_property_and_every_refusal() {
        let page = documentation();
        for property in TABLE {
            assert!(page.contains(&format!("### `{}`", property.key)), "{}", property.key);
        }
        assert!(page.contains("`kafka.transactional.id`"));
    }
}
