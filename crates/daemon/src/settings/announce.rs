//! The line at start that says how a daemon was told to be.
//!
//! What must never happen here: a secret in the line, or a setting left out that makes this daemon differ from another.

use std::fmt::Write as _;

use super::Profile;
use super::build::kafka_properties;
use super::origin::Origin;
use super::report::{ReportValue, service, values};
use super::resolve::Resolved;
use super::table::{Preset, find};

/// What a daemon says of its settings when it starts: all that differ from their defaults, and what follows from the
/// service. Only for settings without mistakes.
pub(crate) fn announcement(resolved: &Resolved) -> String {
    let differ: Vec<String> = values(resolved)
        .into_iter()
        .filter(|value| value.origin != Origin::Default && !is_default(&value.key, &value.value))
        .map(|ReportValue { key, value, .. }| format!("{key}={value}"))
        .collect();
    let mut text = match differ.is_empty() {
        true => "all settings have their defaults".to_owned(),
        false => format!("settings that differ from their defaults: {}", differ.join(", ")),
    };
    let limits = service(resolved);
    let in_force = limits.in_force(&kafka_properties(&resolved.kafka));
    if limits.profile != Profile::Kafka && !in_force.is_empty() {
        let lines: Vec<String> =
            in_force.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let word = limits.profile.as_str();
        write!(text, "; in force for {word}: {}", lines.join(", ")).expect("writing to a String cannot fail");
    }
    text
}

/// Whether somebody wrote down what would hold anyway.
fn is_default(key: &str, value: &str) -> bool {
    let property = match key.split_once("].") {
        Some((list, name)) if list.starts_with("spool[") => find(&format!("spool.{name}")),
        _ => find(key),
    };
    matches!(property.map(|property| (property.kind, property.preset)), Some((kind, Preset::Is(text)))
        if kind.parse_text(text).is_ok_and(|preset| kind.show(&preset) == value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;
    use crate::settings::{Program, Sources, resolve};

    fn resolved(program: Program, yaml: &str, sets: &[&str]) -> Resolved {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yaml");
        std::fs::write(&path, yaml).unwrap();
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        resolve(program, &Sources { config: Some(path), sets, ..Sources::default() })
    }

    #[test]
    fn every_setting_that_differs_is_named_and_no_secret_is_shown() {
        let yaml = "topic: streamsend\nmemory_max: 64MiB\nspool:\n  - directory: /s\n    settle: 1s\n    after: delete\n\
                    kafka:\n  bootstrap.servers: h:1\n  sasl.password: hunter2\n";
        let resolved = resolved(Program::Uploader, yaml, &["partition=3"]);
        assert_eq!(
            announcement(&resolved),
            "settings that differ from their defaults: kafka.bootstrap.servers=h:1, kafka.sasl.password=(hidden), \
             memory_max=64MiB, spool[0].directory=/s, spool[0].after=delete, partition=3"
        );
    }

    #[test]
    fn what_follows_from_the_service_is_named_too() {
        let yaml = "output: /o\nkafka:\n  bootstrap.servers: cell-1.streaming.eu-frankfurt-1.oci.oraclecloud.com:9092\n";
        let text = announcement(&resolved(Program::Downloader, yaml, &[]));
        let (own, service) = text.split_once("; in force for oci: ").unwrap();
        assert!(own.ends_with("output=/o") && !own.contains("kafka_profile"), "{own}");
        for part in [
            "record: at most 1000000 bytes",
            "partition_rate_max: 985kB/s",
            "fetches: at most 5/s",
            "idempotent producer: never asked for",
            "topic configuration: not asked for",
            "create_topic: not possible",
            "kafka.security.protocol: sasl_ssl",
            "kafka.sasl.mechanisms: PLAIN",
        ] {
            assert!(service.contains(part), "{part} not in {service}");
        }
    }

    #[test]
    fn what_a_service_cannot_do_is_not_asked_of_it() {
        let with =
            |yaml: &str| resolved(Program::Uploader, &format!("spool: /s\nkafka_profile: oci\n{yaml}"), &[]);
        assert!(with("").mistakes.is_empty() && with("").warnings.is_empty());
        let refused = with("kafka.enable.idempotence: true\n").mistakes;
        assert!(
            refused.len() == 1 && refused[0].to_string().contains("c.yaml:3: kafka.enable.idempotence"),
            "{refused:?}"
        );
        assert!(with("kafka.enable.idempotence: false\n").mistakes.is_empty());
        for yes in ["True", "TRUE", "t", "T", "1"] {
            let refused = with(&format!("kafka.enable.idempotence: {yes}\n")).mistakes;
            assert_eq!(refused.len(), 1, "{yes}: {refused:?}");
        }
        assert_eq!(
            with("create_topic: {partitions: 6, replication: 3}\npartition_rate_max: 5MB/s\n").warnings.len(),
            2
        );
    }
}
