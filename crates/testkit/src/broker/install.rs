//! Kafka's jars, the Java that runs them, and formatted data folders to begin with.
//!
//! What must never happen here: two brokers on one data folder.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rand::Rng as _;

use crate::process::tethered;
use crate::scratch::{Scratch, project_directory, scratch, target_directory};

/// Any KRaft cluster id will do.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qg";

/// The version of the Apache Kafka whose jars are fetched.
pub fn kafka_version() -> &'static str {
    let pom = include_str!("../../kafka/pom.xml");
    let version = pom.split_once("<artifactId>kafka_2.13</artifactId>").and_then(|(_, rest)| {
        let (_, rest) = rest.split_once("<version>")?;
        rest.split_once("</version>")
    });
    version.map_or("?", |(version, _)| version)
}

/// Java with Kafka's jars, as a child of `before` (a program and its arguments) if there is one.
pub(super) fn java(before: &[String], heap: &str) -> Command {
    java_logging(before, heap, "log4j2.xml", false)
}

/// The same with another of the logging configurations in `kafka/`; for work that lasts it compiles to the end and collects in
/// parallel, else it starts fast.
pub(super) fn java_logging(before: &[String], heap: &str, logging: &str, long_running: bool) -> Command {
    let mut command = match before.split_first() {
        Some((program, args)) => {
            let mut command = tethered(program);
            command.args(args).arg("java");
            command
        }
        None => tethered("java"),
    };
    command.arg(format!("-Xmx{heap}"));
    command.args(["-XX:+ExitOnOutOfMemoryError", "-Xshare:auto"]);
    if long_running {
        command.args(["-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]);
    } else {
        command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    }
    let log4j = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka").join(logging);
    command.arg(format!("-Dlog4j2.configurationFile={}", log4j.display()));
    command.arg("-cp").arg(libs().join("*"));
    command
}

/// The folder with Kafka's jars; fetched by `scripts/kafka-libs` if they are not there yet.
fn libs() -> &'static Path {
    static LIBS: OnceLock<PathBuf> = OnceLock::new();
    LIBS.get_or_init(|| {
        let script = project_directory().join("scripts/kafka-libs");
        let status = Command::new(&script).status();
        assert!(status.is_ok_and(|status| status.success()), "{} failed: see above", script.display());
        target_directory().join("kafka-libs")
    })
}

/// Puts a formatted data folder there: of a node that is alone, or of the member of this number among several.
pub(super) fn format_data(data: &Path, member: Option<u32>) {
    copy_tree(formatted(member.is_some()), data);
    let Some(number) = member else { return };
    let path = data.join("meta.properties");
    let text = fs::read_to_string(&path).expect("a formatted folder has it");
    let mut mine = String::new();
    for line in text.lines() {
        let _ = match line.split_once('=') {
            Some(("node.id", _)) => writeln!(mine, "node.id={number}"),
            Some(("directory.id", _)) => writeln!(mine, "directory.id={}", directory_id()),
            _ => writeln!(mine, "{line}"),
        };
    }
    write(&path, &mine);
}

/// 16 random bytes as Kafka writes them, without the signs that could begin an option.
fn directory_id() -> String {
    let mut random = rand::rng();
    let letters = (0..21).map(|_| char::from(random.sample(rand::distr::Alphanumeric)));
    letters.chain(['Q']).collect()
}

/// Empty formatted data folders of both sorts, each made once per process.
fn formatted(member: bool) -> &'static Path {
    static FORMATTED: [OnceLock<Scratch>; 2] = [OnceLock::new(), OnceLock::new()];
    static DATA: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    let index = usize::from(member);
    let scratch = FORMATTED[index].get_or_init(|| format(member));
    DATA[index].get_or_init(|| scratch.path().join("data"))
}

fn format(member: bool) -> Scratch {
    let scratch = scratch("broker-format");
    let properties = scratch.path().join("format.properties");
    let data = scratch.path().join("data");
    let quorum = if member { "voters=1@127.0.0.1:1" } else { "bootstrap.servers=127.0.0.1:0" };
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\nlisteners=PLAINTEXT://127.0.0.1:0,CONTROLLER://127.0.0.1:0\n\
         controller.listener.names=CONTROLLER\ncontroller.quorum.{quorum}\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\nlog.dirs={}\n",
        data.display()
    );
    write(&properties, &text);
    let mut command = java(&[], "128m");
    command.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]).arg(&properties);
    command.args((!member).then_some("--standalone"));
    let output = command.stdin(Stdio::null()).output().expect("setpriv and java are installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "formatting the broker's data folder failed:\n{said}");
    scratch
}

pub(super) fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.expect("the formatted folder is ours");
        let target = to.join(entry.path().strip_prefix(from).expect("walked from there"));
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target).expect("the scratch folder is ours");
        } else {
            fs::copy(entry.path(), &target).expect("the scratch folder is ours");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafka_has_a_version() {
        assert!(kafka_version().starts_with("4.1."), "{}", kafka_version());
    }
}
