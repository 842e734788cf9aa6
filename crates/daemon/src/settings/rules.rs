//! Rules for single values: names, topics, addresses, globs, templates, librdkafka properties.
//!
//! What must never happen here: a rule that differs from what the broker or the other daemon takes.

/// Longest name of an uploader, downloader or spool.
const NAME_BYTES_MAX: usize = 63;
/// Longest name of a topic, as in Kafka.
const TOPIC_BYTES_MAX: usize = 249;

/// The librdkafka properties that would break a promise, and which one.
const REFUSED: &[(&str, &str)] = &[
    (
        "acks",
        "the daemon always waits for all in-sync replicas (acks=all), or acknowledged data could be lost",
    ),
    ("request.required.acks", "it is another name of acks: the daemon always waits for all in-sync replicas"),
    ("enable.auto.commit", "only offsets of delivered files are committed, or a crash could lose files"),
    (
        "auto.commit.enable",
        "it is another name of enable.auto.commit: only offsets of delivered files are committed",
    ),
    ("enable.auto.offset.store", "only offsets of delivered files are stored, or a crash could lose files"),
    (
        "auto.offset.reset",
        "the position comes from the state directory, or records could be skipped; see `start`",
    ),
    ("message.timeout.ms", "records are sent until they are acknowledged; a limit would give files up"),
    (
        "delivery.timeout.ms",
        "it is another name of message.timeout.ms: records are sent until they are acknowledged",
    ),
    ("transactional.id", "the daemons do without transactions, and open ones would hold the files back"),
    ("isolation.level", "it is set by the daemon to fit what uploaders write"),
    ("partitioner", "every record is given its partition by the uploader"),
    ("group.id", "it is streamsend-downloader-NAME; set `name`"),
];

/// Why a librdkafka property may not be set, if it may not.
pub(crate) fn refused_property(property: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(name, _)| *name == property).map(|(_, reason)| *reason)
}

/// The refused properties with their reasons, for the documentation.
pub(crate) fn refused_properties() -> &'static [(&'static str, &'static str)] {
    REFUSED
}

/// Whether the value of a librdkafka property is hidden wherever properties are shown.
pub fn is_secret_property(property: &str) -> bool {
    const PARTS: &[&str] = &[
        "password",
        "secret",
        "token",
        "passphrase",
        "credential",
        "key.pem",
        "private.key",
        "sasl.jaas",
        "oauthbearer.config",
        "assertion",
    ];
    let property = property.to_ascii_lowercase();
    // Locations and switches with such a part in their names are no secrets.
    let harmless = ["endpoint.url", ".file", "enable."].iter().any(|part| property.contains(part));
    PARTS.iter().any(|part| property.contains(part)) && !harmless
}

/// Whether librdkafka could have such a property at all.
pub(crate) fn check_property_name(property: &str) -> Result<(), String> {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    if property.is_empty() || property.len() > 100 || !property.chars().all(valid) {
        return Err("this is not the name of a librdkafka property: write it in small letters, as in kafka.security.protocol".into());
    }
    match refused_property(property) {
        Some(reason) => Err(format!("not allowed: {reason}; remove it")),
        None => Ok(()),
    }
}

/// 1 to 63 of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let expected = "write 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit";
    if name.is_empty() {
        return Err(format!("the name is empty: {expected}"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("the name has {} bytes: {expected}", name.len()));
    }
    let wrong = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c)));
    if let Some(character) = wrong {
        return Err(format!("{character:?} cannot be part of a name: {expected}"));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("the name begins with {:?}: {expected}", &name[..1]));
    }
    Ok(())
}

/// The nearest valid name to a host's or a folder's.
pub(crate) fn make_name(text: &str) -> String {
    let name: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    let name = name.trim_start_matches(['.', '_', '-']);
    let name = &name[..name.len().min(NAME_BYTES_MAX)];
    if name.is_empty() { "streamsend".into() } else { name.into() }
}

/// What Kafka takes.
pub(crate) fn check_topic(topic: &str) -> Result<(), String> {
    let expected = "write 1 to 249 of A-Z a-z 0-9 . _ -";
    let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX {
        return Err(format!("the topic's name has {} bytes: {expected}", topic.len()));
    }
    if let Some(character) = topic.chars().find(|c| !valid(*c)) {
        return Err(format!("{character:?} cannot be part of a topic's name: {expected}"));
    }
    if topic == "." || topic == ".." {
        return Err(format!("`{topic}` cannot be a topic's name: {expected}"));
    }
    Ok(())
}

/// `host:port,[::1]:port,SASL_SSL://host`: the port may be left out, as librdkafka knows the usual one.
pub(crate) fn check_servers(text: &str) -> Result<(), String> {
    for server in text.split(',') {
        let server = server.trim();
        let wrong = || {
            Err(format!(
                "`{server}` is not a broker's address: write HOST:PORT, and more of them behind commas"
            ))
        };
        let address = server.split_once("://").map_or(server, |(_, address)| address);
        let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or("?"))),
            None => match address.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let ipv6 = address.starts_with('[');
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c) || (ipv6 && ":%".contains(c));
        if host.is_empty() || !host.chars().all(plain) {
            return wrong();
        }
        if port.is_some_and(|port| !matches!(port.parse::<u16>(), Ok(1..))) {
            return wrong();
        }
    }
    Ok(())
}

/// What `globset` takes.
pub(crate) fn check_glob(glob: &str) -> Result<(), String> {
    if glob.is_empty() {
        return Err("a glob is empty: remove it, or write ** for everything".into());
    }
    if glob.starts_with('/') || glob.split('/').any(|part| part == "..") {
        return Err(format!(
            "`{glob}` can match nothing: globs are matched against the path relative to the spool"
        ));
    }
    match globset::GlobBuilder::new(glob).literal_separator(true).build() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "`{glob}` is not a glob: {}; put a \\ before a character meant as it is",
            error.kind()
        )),
    }
}

/// `{path}` exactly once, no other placeholder than `{uploader}`, `{spool}`, `{date}`, nothing that leaves the output folder.
pub(crate) fn check_landing(template: &str) -> Result<(), String> {
    let expected = "write a path such as {uploader}/{path}";
    let mut rest = template;
    let mut paths = 0;
    while let Some(at) = rest.find(['{', '}']) {
        let end = rest[at..].find('}').filter(|_| rest[at..].starts_with('{'));
        let Some(end) = end else {
            return Err(format!("a brace in `{template}` has no partner: {expected}"));
        };
        match &rest[at + 1..at + end] {
            "path" => paths += 1,
            "uploader" | "spool" | "date" => {}
            other => {
                return Err(format!(
                    "{{{other}}} is not known: use {{path}}, {{uploader}}, {{spool}} and {{date}}"
                ));
            }
        }
        rest = &rest[at + end + 1..];
    }
    if paths != 1 {
        return Err(format!("{{path}} stands in it {paths} times, and must once: {expected}"));
    }
    if template.chars().any(char::is_control) {
        return Err(format!("it holds a control character: {expected}"));
    }
    if template.starts_with('/') {
        return Err(format!("it is absolute: it begins in the output folder, so {expected}"));
    }
    for (index, part) in template.split('/').enumerate() {
        if part.is_empty() || part == "." || part == ".." {
            return Err(format!("`{part}` cannot be a part of the path: {expected}"));
        }
        if index == 0 && part == ".streamsend" {
            return Err(".streamsend is for work in progress: choose another folder".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "host-1.example_x", "0", &"a".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", ".a", "-a", "_a", "a b", "ä", "a/b", &"a".repeat(64), "a\n"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for text in ["", "...", "in coming", "_x", "ünï", &"ab".repeat(80), ".hidden", "ok"] {
            assert_eq!(check_name(&make_name(text)), Ok(()), "{text}");
        }
        assert_eq!(make_name(".in box"), "in-box");
    }

    #[test]
    fn topics() {
        for topic in ["streamsend", "a.b_c-d", "...", &"t".repeat(249)] {
            assert_eq!(check_topic(topic), Ok(()), "{topic}");
        }
        for topic in ["", ".", "..", "a b", "a/b", "ü", &"t".repeat(250)] {
            assert!(check_topic(topic).is_err(), "{topic}");
        }
    }

    #[test]
    fn servers() {
        for text in [
            "localhost:9092",
            "a:1,b:2",
            "a:1, b:2",
            "[::1]:9092",
            "host",
            "SASL_SSL://h.example:9093",
            "[fe80::1%eth0]",
        ] {
            assert_eq!(check_servers(text), Ok(()), "{text}");
        }
        for text in
            ["", ",", "a:1,", "a:x", "a:0", "a:70000", ":9092", "a b:1", "::1:9092", "[::1]9092", "http://"]
        {
            assert!(check_servers(text).is_err(), "{text}");
        }
    }

    #[test]
    fn landings() {
        for text in [
            "{path}",
            "{uploader}/{path}",
            "{date}/{uploader}-{spool}/{path}",
            "in/{path}.new",
            "a..b/{path}",
        ] {
            assert_eq!(check_landing(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "x",
            "{uploader}",
            "/{path}",
            "../{path}",
            "a/../{path}",
            "a//{path}",
            "{path}/",
            "./{path}",
            "{Path}",
            "{path",
            "path}",
            "{path}{path}",
            "{}{path}",
            "{host}/{path}",
            ".streamsend/{path}",
            "{{path}}",
            "a\n{path}",
        ] {
            assert!(check_landing(text).is_err(), "{text}");
        }
    }

    #[test]
    fn globs() {
        for glob in ["**", "*.csv", "in/**/[ab]*.{csv,txt}", "a\\*b"] {
            assert_eq!(check_glob(glob), Ok(()), "{glob}");
        }
        for glob in ["", "[a", "{a", "/abs", "../x"] {
            assert!(check_glob(glob).is_err(), "{glob}");
        }
    }

    #[test]
    fn what_breaks_a_promise_is_refused_with_the_reason() {
        for property in [
            "acks",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "auto.offset.reset",
            "message.timeout.ms",
            "delivery.timeout.ms",
            "transactional.id",
            "isolation.level",
            "partitioner",
            "group.id",
        ] {
            assert!(
                check_property_name(property).is_err_and(|error| error.contains("not allowed: ")),
                "{property}"
            );
        }
        for property in ["security.protocol", "sasl.password", "linger.ms", "enable.idempotence", "log_level"]
        {
            assert_eq!(check_property_name(property), Ok(()));
        }
        for property in ["", "Linger", "a b"] {
            assert!(check_property_name(property).is_err());
        }
    }

    #[test]
    fn secrets_are_known_by_name() {
        for property in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "sasl.jaas.config",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "SASL.PASSWORD",
        ] {
            assert!(is_secret_property(property), "{property}");
        }
        for property in [
            "bootstrap.servers",
            "sasl.username",
            "ssl.ca.location",
            "sasl.mechanism",
            "sasl.oauthbearer.token.endpoint.url",
        ] {
            assert!(!is_secret_property(property), "{property}");
        }
    }
}
