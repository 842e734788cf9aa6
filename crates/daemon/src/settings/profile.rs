//! What the services that speak Kafka's protocol allow, from their published limits.
//!
//! What must never happen here: a guess that a broker would have to refuse; where a service publishes nothing, nothing is assumed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Profile;
use super::units::{show_duration, show_size};

/// Names that librdkafka takes for one property; the user's word holds whichever he uses.
const ALIASES: [(&str, &str); 1] = [("sasl.mechanisms", "sasl.mechanism")];

/// Limits and habits of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileLimits {
    /// The profile itself; never [`Profile::Auto`].
    pub profile: Profile,
    /// Largest record (key and value) in bytes that is safe whatever the topic says; `None`: the topic's limit holds.
    pub max_record_bytes: Option<usize>,
    /// Bytes per second and partition to stay below; a little under the published limit. `None`: no limit known.
    pub partition_rate_max: Option<u64>,
    /// The published limit itself, bytes per second and partition, for planning.
    pub partition_rate_published: Option<u64>,
    /// Fetch requests per second and partition.
    pub fetches_per_second: Option<u32>,
    /// Whether `enable.idempotence` works.
    pub idempotence: bool,
    /// Least time between two commits of offsets.
    pub commit_interval: Duration,
    /// Whether the topic's `max.message.bytes` can be asked for, and the answer believed.
    pub rely_on_describe_configs: bool,
    /// Whether each offset has a record as long as nobody compacts the topic or writes in transactions. A service with a broker of its
    /// own makes does not promise it.
    pub dense_offsets: bool,
    /// Whether `create_topic` can work through the Kafka protocol.
    pub can_create_topic: bool,
    /// librdkafka properties that suit the service; the user's own come before them.
    pub properties: &'static [(&'static str, &'static str)],
}

impl ProfileLimits {
    /// The properties of the clients: those that suit the service, and the user's own before them.
    pub fn client_properties(&self, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = self.suited(own).map(|(k, v)| (k.into(), v.into())).collect();
        all.extend(own.clone());
        all
    }

    /// Properties that suit the service and that the user said nothing about.
    fn suited<'a>(
        &self,
        own: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'static str, &'static str)> + use<'a> {
        let given = |name: &str| {
            let other = ALIASES.iter().find(|(left, _)| *left == name).map(|(_, right)| *right);
            own.contains_key(name) || other.is_some_and(|other| own.contains_key(other))
        };
        self.properties.iter().copied().filter(move |(name, _)| !given(name))
    }

    /// Least time between two fetches from one broker, so that no second holds more of them than the service allows; zero:
    /// no limit.
    pub fn fetch_interval(&self) -> Duration {
        // A tenth more, so that the last fetch of one second and the first of the next do not share one.
        self.fetches_per_second.map_or(Duration::ZERO, |count| Duration::from_millis(1100) / count.max(1))
    }

    /// What follows from the service, as names and values for people; empty for plain Kafka.
    pub fn in_force(&self, own: &BTreeMap<String, String>) -> Vec<(String, String)> {
        let mut lines: Vec<(String, String)> = Vec::new();
        let mut add = |name: &str, value: String| lines.push((name.to_owned(), value));
        if let Some(bytes) = self.max_record_bytes {
            add("record", format!("at most {bytes} bytes"));
        }
        if let Some(rate) = self.partition_rate_max {
            add("partition_rate_max", format!("{}/s", show_size(rate)));
        }
        if let Some(count) = self.fetches_per_second {
            add("fetches", format!("at most {count}/s"));
        }
        if !self.idempotence {
            add("idempotent producer", "never asked for".to_owned());
        }
        if self.profile == Profile::Oci {
            add("offsets", format!("committed at most every {}", show_duration(self.commit_interval)));
        }
        if !self.rely_on_describe_configs {
            add("topic configuration", "not asked for".to_owned());
        }
        if !self.can_create_topic {
            add("create_topic", "not possible".to_owned());
        }
        for (name, value) in self.suited(own) {
            add(&format!("kafka.{name}"), value.to_owned());
        }
        lines
    }
}

/// The limits of `profile`; [`Profile::Auto`] is recognised by the host names in `bootstrap` (`host:port,host:port`), and is
/// [`Profile::Kafka`] where nothing is recognised.
pub fn profile_limits(profile: Profile, bootstrap: &str) -> ProfileLimits {
    let profile = if profile == Profile::Auto { recognise(bootstrap) } else { profile };
    let kafka = ProfileLimits {
        profile,
        max_record_bytes: None,
        partition_rate_max: None,
        partition_rate_published: None,
        fetches_per_second: None,
        idempotence: true,
        commit_interval: Duration::from_secs(1),
        rely_on_describe_configs: true,
        dense_offsets: true,
        can_create_topic: true,
        properties: &[("socket.keepalive.enable", "true")],
    };
    match profile {
        Profile::Auto | Profile::Kafka | Profile::Confluent | Profile::Msk | Profile::Redpanda => kafka,
        Profile::Oci => ProfileLimits {
            // 1 MB for the whole request, keys and values: one record each.
            max_record_bytes: Some(1_000_000),
            partition_rate_max: Some(985_000),
            partition_rate_published: Some(1_000_000),
            fetches_per_second: Some(5),
            idempotence: false,
            // 10 commits per second are allowed for all members together.
            commit_interval: Duration::from_secs(5),
            rely_on_describe_configs: false,
            dense_offsets: false,
            can_create_topic: false,
            properties: &[
                ("security.protocol", "sasl_ssl"),
                ("sasl.mechanisms", "PLAIN"),
                ("socket.keepalive.enable", "true"),
                ("fetch.wait.max.ms", "250"),
                ("fetch.min.bytes", "65536"),
            ],
            ..kafka
        },
        Profile::EventHubs => ProfileLimits {
            // A request over 1,046,528 bytes makes the service close the connection without a word.
            max_record_bytes: Some(1_000_000),
            rely_on_describe_configs: false,
            dense_offsets: false,
            can_create_topic: false,
            // It drops connections that were idle for 240 s.
            properties: &[
                ("socket.keepalive.enable", "true"),
                ("connections.max.idle.ms", "180000"),
                ("metadata.max.age.ms", "180000"),
                ("request.timeout.ms", "60000"),
            ],
            ..kafka
        },
    }
}

/// By the host names that the services document.
fn recognise(bootstrap: &str) -> Profile {
    for server in bootstrap.split(',') {
        let host = server.trim().rsplit_once(':').map_or(server.trim(), |(host, _)| host);
        let host = host.rsplit_once("://").map_or(host, |(_, host)| host).to_ascii_lowercase();
        let has_label = |label: &str| host.split('.').any(|part| part == label);
        // "OCI Streaming with Apache Kafka" is real Kafka under the same domain, without the label.
        let profile = if host.ends_with(".oraclecloud.com") && has_label("streaming") {
            Profile::Oci
        } else if host.contains(".servicebus.") {
            Profile::EventHubs
        } else if host.ends_with(".confluent.cloud") {
            Profile::Confluent
        } else if (host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn"))
            && (has_label("kafka") || has_label("kafka-serverless"))
        {
            Profile::Msk
        } else if host.ends_with(".redpanda.com") {
            Profile::Redpanda
        } else {
            continue;
        };
        return profile;
    }
    Profile::Kafka
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_recognised_by_host_name() {
        let cases = [
            ("localhost:9092", Profile::Kafka),
            ("", Profile::Kafka),
            ("cell-1.streaming.eu-frankfurt-1.oci.oraclecloud.com:9092", Profile::Oci),
            ("SASL_SSL://streaming.eu-frankfurt-1.oci.oraclecloud.com:9092", Profile::Oci),
            ("bootstrap-clstr-x.kafka.eu-frankfurt-1.oci.oraclecloud.com:9092", Profile::Kafka),
            ("ns.servicebus.windows.net:9093", Profile::EventHubs),
            ("pkc-1.europe-west3.gcp.confluent.cloud:9092", Profile::Confluent),
            ("b-1.x.kafka.eu-west-1.amazonaws.com:9098", Profile::Msk),
            ("boot-x.c1.kafka-serverless.eu-west-1.amazonaws.com:9098", Profile::Msk),
            ("ec2-1-2-3-4.eu-west-1.compute.amazonaws.com:9092", Profile::Kafka),
            ("seed.x.cloud.redpanda.com:9092", Profile::Redpanda),
            ("10.0.0.1:9092,streaming.r.oci.oraclecloud.com:9092", Profile::Oci),
        ];
        for (bootstrap, expected) in cases {
            assert_eq!(profile_limits(Profile::Auto, bootstrap).profile, expected, "{bootstrap}");
        }
    }

    #[test]
    fn a_given_profile_is_not_second_guessed() {
        let limits = profile_limits(Profile::Oci, "localhost:9092");
        assert_eq!(limits.profile, Profile::Oci);
        assert!(!limits.idempotence && !limits.rely_on_describe_configs);
        assert!(limits.partition_rate_max < limits.partition_rate_published);
        assert!(profile_limits(Profile::Kafka, "streaming.r.oci.oraclecloud.com:9092").idempotence);
    }

    #[test]
    fn the_users_properties_come_before_the_services_whatever_name_he_uses() {
        let limits = profile_limits(Profile::Oci, "");
        let own = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        assert_eq!(limits.client_properties(&BTreeMap::new())["sasl.mechanisms"], "PLAIN");
        assert_eq!(limits.client_properties(&BTreeMap::new())["security.protocol"], "sasl_ssl");
        let all = limits.client_properties(&own("sasl.mechanism", "SCRAM-SHA-512"));
        assert!(!all.contains_key("sasl.mechanisms") && all["sasl.mechanism"] == "SCRAM-SHA-512", "{all:?}");
        let all = limits.client_properties(&own("security.protocol", "plaintext"));
        assert_eq!(all["security.protocol"], "plaintext");
    }

    #[test]
    fn no_second_holds_more_fetches_than_the_service_allows() {
        let limits = profile_limits(Profile::Oci, "");
        let interval = limits.fetch_interval();
        // The most that fit into one second: one at its beginning, and one after each interval.
        let most = 1 + 1_000_000 / interval.as_micros();
        assert_eq!(most, u128::from(limits.fetches_per_second.unwrap_or(0)));
        assert_eq!(profile_limits(Profile::Kafka, "").fetch_interval(), Duration::ZERO);
    }
}
