//! A configuration file, a command line and an environment, to settings or to all their mistakes.
//!
//! Promises: no panic; settings exactly when there is no mistake; every mistake says something; a secret is not shown;
//! memory is bounded by the texts.

use crate::input::Input;
use crate::{allocation::bounded, scratch};
use daemon::Program;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What no text of a report may show.
const SECRET: &str = "hunter2-hunter2";

pub fn run(input: &[u8]) {
    // A device or a pipe that is read as a key file could block.
    let names_a_device = |text: &[u8]| text.windows(4).any(|part| part == b"/dev" || part == b"/pro");
    if names_a_device(input) || input.len() > 64 * 1024 {
        return;
    }
    let mut input = Input::new(input);
    let how = input.byte();
    let program = if how & 1 == 0 { Program::Uploader } else { Program::Downloader };
    let mut arguments = vec![OsString::from("streamsend")];
    for _ in 0..(how >> 1 & 3) {
        arguments.push(OsStr::from_bytes(input.blob()).to_owned());
    }
    let mut environment = Vec::new();
    for _ in 0..(how >> 3 & 3) {
        let name = [b"STREAMSEND_", input.blob()].concat();
        environment.push((OsStr::from_bytes(&name).to_owned(), OsStr::from_bytes(input.blob()).to_owned()));
    }
    let yaml = input.rest();
    let texts = yaml.len() + arguments.iter().map(|text| text.len()).sum::<usize>();
    let file = scratch::file("configuration.yaml", yaml);
    // The command line's parser makes its own tables each time.
    let limit = 8 * 1024 * 1024 + 2048 * texts;
    let report =
        bounded("a configuration", limit, || daemon::check_texts(program, &file, arguments, environment));
    let Some(report) = report else { return };
    for mistake in &report.mistakes {
        assert!(!mistake.message.is_empty() && !mistake.to_string().is_empty());
    }
    let is_secret = |key: &str| key.strip_prefix("kafka.").is_some_and(daemon::is_secret_property);
    for value in report.values.iter().filter(|value| is_secret(&value.key)) {
        assert!(!value.value.contains(SECRET), "{}: shown", value.key);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let uploader = daemon::sample_file(Program::Uploader);
    let downloader = daemon::sample_file(Program::Downloader);
    let small = format!(
        "topic: t\nkafka:\n  bootstrap.servers: a:1\n  sasl.password: {SECRET}\nspool:\n  - directory: /tmp/a\n    \
         exclude: ['*.x', '{{a,b}}']\n    settle: 5s\nchunk_size: 64KiB\nrate_max: 1MB/s\nmemory_max: 1GiB\n"
    );
    let output = "output: /tmp/o\nlanding: '{uploader}/{date}/{path}'\ndisk_reserve: 1%\nstart: 2025-01-01T00:00:00Z\n";
    let flags = |how: u8, texts: &[&str], yaml: &str| {
        let blob = |text: &&str| [&[text.len() as u8, 0], text.as_bytes()].concat();
        [vec![how], texts.iter().flat_map(blob).collect(), yaml.as_bytes().to_vec()].concat()
    };
    vec![
        flags(0, &[], &uploader),
        flags(1, &[], &downloader),
        flags(0, &[], &small),
        flags(1, &[], output),
        flags(0b10, &["--topic=x"], &small),
        flags(0b111, &["--set=accept.open_files_max=5", "--output=/x", "--until-idle=1s"], output),
        flags(0b1000, &["SPOOL__SETTLE", "250ms"], &small),
        flags(0b1_1001, &["TOPIC", "u", "KAFKA__SASL_PASSWORD", SECRET, "LOG__LEVEL", "x"], output),
        flags(1, &[], "a: &x [1, *x]\n? {b: c}\n: - d\n<<: *x\n"),
        flags(0, &[], "kafka: {sasl.password: {file: /nowhere}, acks: 1}\nspool: [a, {b: c}]\n"),
    ]
}
