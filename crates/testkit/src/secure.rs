//! A broker behind TLS, SASL/PLAIN and access rights, and what it was asked: certificates are made on the spot by `openssl`.
//!
//! What must never happen here: a secret that is used outside a test run, or a request that is missed in the count.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kafka::{Act, Thing};

use crate::broker::{Broker, BrokerBuilder};
use crate::scratch::{Scratch, scratch};
use crate::wait::LONG;

/// The listener with TLS and SASL/PLAIN.
pub const SASL: &str = "SASL";
/// The listener with TLS alone, whose certificate is in force and names `localhost` and `127.0.0.1`.
pub const TLS: &str = "TLS";
/// The listener whose certificate has expired.
pub const EXPIRED: &str = "EXPIRED";
/// The listener whose certificate names another host.
pub const ELSEWHERE: &str = "ELSEWHERE";

/// A certificate authority and the certificates it gave.
#[derive(Debug)]
pub struct Certificates {
    folder: Scratch,
}

impl Certificates {
    /// Makes them.
    ///
    /// # Panics
    /// When `openssl` is missing or fails.
    pub fn new() -> Certificates {
        let certificates = Certificates { folder: scratch("certificates") };
        for authority in ["ca", "stranger"] {
            let (key, pem) = (format!("{authority}.key"), format!("{authority}.pem"));
            let subject = format!("/CN={authority}");
            certificates.request(&["-x509", "-subj", &subject, "-days", "30", "-keyout", &key, "-out", &pem]);
        }
        certificates.leaf("server", "DNS:localhost,IP:127.0.0.1", "30");
        certificates.leaf("expired", "DNS:localhost,IP:127.0.0.1", "-1");
        certificates.leaf("elsewhere", "DNS:kafka.example.org", "30");
        certificates
    }

    fn leaf(&self, name: &str, names: &str, days: &str) {
        let [key, csr, crt] = ["key", "csr", "crt"].map(|kind| format!("{name}.{kind}"));
        let names = format!("subjectAltName={names}");
        self.request(&["-subj", "/CN=broker", "-addext", &names, "-keyout", &key, "-out", &csr]);
        let sign = ["x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        let more = ["-copy_extensions", "copy", "-days", days, "-in", &csr, "-out", &crt];
        self.openssl(&[&sign[..], &more].concat());
        let both = [key, crt].map(|file| self.read(&file)).concat();
        fs::write(self.path(&format!("{name}.both.pem")), both).expect("the scratch folder is ours");
    }

    fn request(&self, more: &[&str]) {
        let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        self.openssl(&[&new[..], more].concat());
    }

    fn openssl(&self, args: &[&str]) {
        let mut command = Command::new("openssl");
        let output = command.args(args).current_dir(self.folder.path()).stdin(Stdio::null()).output();
        let output = output.expect("openssl is installed");
        assert!(
            output.status.success(),
            "openssl {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("openssl wrote it")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The authority's own certificate, for `ssl.ca.location`.
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The certificate of an authority that signed nothing.
    pub fn stranger(&self) -> PathBuf {
        self.path("stranger.pem")
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Certificates::new()
    }
}

impl BrokerBuilder {
    /// Adds the listeners [`TLS`], [`EXPIRED`], [`ELSEWHERE`] and [`SASL`], the last for these users and passwords.
    #[must_use]
    pub fn secured(self, certificates: &Certificates, users: &[(&str, &str)]) -> Self {
        let pem = |name: &str| certificates.path(name).display().to_string();
        let accounts: String =
            users.iter().map(|(user, password)| format!(" user_{user}=\"{password}\"")).collect();
        let login = format!("org.apache.kafka.common.security.plain.PlainLoginModule required{accounts};");
        let listeners = [(TLS, "SSL"), (EXPIRED, "SSL"), (ELSEWHERE, "SSL"), (SASL, "SASL_SSL")];
        listeners
            .into_iter()
            .fold(self, |builder, (name, protocol)| builder.door(name, protocol))
            .property("ssl.keystore.type", "PEM")
            .property("ssl.keystore.location", &pem("server.both.pem"))
            .property("ssl.truststore.type", "PEM")
            .property("ssl.truststore.location", &pem("ca.pem"))
            .property("listener.name.expired.ssl.keystore.location", &pem("expired.both.pem"))
            .property("listener.name.elsewhere.ssl.keystore.location", &pem("elsewhere.both.pem"))
            .property("sasl.enabled.mechanisms", "PLAIN")
            .property("listener.name.sasl.plain.sasl.jaas.config", &login)
    }

    /// Nobody may do anything, besides those who come without a name (the plain and the TLS listeners).
    #[must_use]
    pub fn guarded(self) -> Self {
        self.property("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            .property("super.users", "User:ANONYMOUS")
    }
}

/// A request that a broker answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// When it was answered, milliseconds since 1970.
    pub answered_ms: u64,
    /// `client.id` of who asked.
    pub client: String,
    /// The request's name in the protocol, such as `FETCH`.
    pub name: String,
    /// The whole line.
    pub line: String,
}

impl Asked {
    /// When the broker got it, milliseconds since 1970.
    ///
    /// # Panics
    /// When the line does not say how long it took.
    pub fn came_ms(&self) -> f64 {
        self.answered_ms as f64 - self.number("totalTimeMs").expect("the broker says how long it took")
    }

    /// Of a produce request: bytes of all its records with their batches.
    ///
    /// # Panics
    /// When it is none.
    pub fn record_bytes(&self) -> f64 {
        let member = "\"recordsSizeInBytes\":";
        assert!(self.line.contains(member), "no records: {}", self.line);
        let sizes = self.line.split(member).skip(1);
        sizes.filter_map(|rest| rest.split(['}', ',']).next()?.parse::<f64>().ok()).sum()
    }

    fn number(&self, name: &str) -> Option<f64> {
        let (_, rest) = self.line.split_once(&format!("\"{name}\":"))?;
        rest.split([',', '}']).next()?.parse().ok()
    }
}

impl Broker {
    /// Gives a user a right, in force within moments.
    ///
    /// # Panics
    /// When the broker does not take it.
    pub fn allow(&self, user: &str, act: Act, thing: Thing<'_>) {
        let given = self.admin("rights").allow(user, act, thing, LONG);
        assert!(given.is_ok(), "giving {user} {act:?} on {thing:?}: {given:?}");
    }

    /// Every request of clients whose name begins so, in the order of the answers; needs [`BrokerBuilder::log_requests`].
    ///
    /// # Panics
    /// When there is no such log, or a line is not what it should be.
    pub fn asked_by(&self, client: &str) -> Vec<Asked> {
        let path: &Path = &self.directory().join("requests.log");
        let text = fs::read_to_string(path).expect("the broker logs its requests");
        text.lines().map(asked).filter(|asked| asked.client.starts_with(client)).collect()
    }
}

fn asked(line: &str) -> Asked {
    let member = |name: &str| {
        let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
        Some(rest.split('"').next()?.to_owned())
    };
    let answered_ms = line.split(' ').next().and_then(|digits| digits.parse().ok());
    Asked {
        answered_ms: answered_ms.unwrap_or_else(|| panic!("no time: {line}")),
        client: member("clientId").unwrap_or_default(),
        name: member("requestApiKeyName").unwrap_or_else(|| panic!("no request: {line}")),
        line: line.to_owned(),
    }
}
