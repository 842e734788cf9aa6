//! A real Apache Kafka 4.1, one node in KRaft mode, as a child process: started, stopped, killed, frozen, started again.
//!
//! It takes free ports at its first start and keeps them, so that clients find it again after a restart. Data lies in a scratch
//! folder. Ready means: it answered a lookup, not that a port is open.
//!
//! What must never happen here: a broker that outlives the test process, or two tests that meet on one topic by accident.

mod cluster;
mod install;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kafka::{Admin, Settings};
use rustix::process::Signal;

use crate::loopback::own_address;
use crate::process;
use crate::scratch::{Scratch, scratch};
use crate::wait::{LONG, wait_for, wait_until};
use install::{format_data, java, java_logging, write};

pub use cluster::Cluster;
pub use install::kafka_version;

/// One request to the broker.
const LOOKUP: Duration = Duration::from_secs(5);

/// How a broker shall be.
#[derive(Debug, Clone)]
pub struct BrokerBuilder {
    partitions: i32,
    heap: String,
    long_running: bool,
    properties: BTreeMap<String, String>,
    /// Further listeners, and where each says that it is.
    links: Vec<(SocketAddr, SocketAddr)>,
    /// The address of all its other listeners.
    host: IpAddr,
    /// A program that runs it, with arguments.
    before: Vec<String>,
    member: Option<Member>,
    /// Further listeners on ports of their own: name and security protocol.
    doors: Vec<(String, String)>,
    log_requests: bool,
}

/// One of several nodes.
#[derive(Debug, Clone)]
struct Member {
    number: u32,
    /// Of clients and of the controller.
    ports: (u16, u16),
    /// `1@HOST:PORT,2@…`: all controllers.
    voters: String,
}

impl BrokerBuilder {
    /// Partitions of topics that are created without saying how many (the broker's `num.partitions`); 6 unless told.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Java heap such as `256m`, the default; the process takes about 60 MB more.
    #[must_use]
    pub fn heap(mut self, heap: &str) -> Self {
        heap.clone_into(&mut self.heap);
        self
    }

    /// For work that lasts: the Java machine compiles to the end and collects in parallel, as in production; it starts slower.
    #[must_use]
    pub fn long_running(mut self) -> Self {
        self.long_running = true;
        self
    }

    /// Any line of `server.properties`, before or instead of ours.
    #[must_use]
    pub fn property(mut self, key: &str, value: &str) -> Self {
        self.properties.insert(key.to_owned(), value.to_owned());
        self
    }

    /// One more listener at an address of its own, which tells its clients to come to `advertised`: a proxy that leads to the
    /// address that is returned.
    pub fn link(&mut self, advertised: SocketAddr) -> SocketAddr {
        let listener = own_address();
        self.links.push((listener, advertised));
        listener
    }

    /// Runs it at this address as a child of another program, such as `ip netns exec NAME`; [`BrokerBuilder::start`] must be called
    /// where the address can be reached.
    #[must_use]
    pub fn within(mut self, before: &[&str], host: IpAddr) -> Self {
        self.before = before.iter().map(|&part| part.to_owned()).collect();
        self.host = host;
        self
    }

    /// One more listener of this name with that security protocol, on a port that [`Broker::door`] tells.
    #[must_use]
    pub fn door(mut self, name: &str, protocol: &str) -> Self {
        self.doors.push((name.to_owned(), protocol.to_owned()));
        self
    }

    /// Writes a line for each request, for [`Broker::asked_by`].
    #[must_use]
    pub fn log_requests(mut self) -> Self {
        self.log_requests = true;
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up; with its log.
    pub fn start(self) -> Broker {
        let mut broker = self.prepare();
        broker.start_again();
        broker
    }

    fn prepare(self) -> Broker {
        let scratch = scratch("broker");
        let member = self.member.as_ref();
        format_data(&scratch.path().join("data"), member.map(|member| member.number));
        let ports = member.map(|member| member.ports);
        Broker { how: self, scratch, ports, doors: BTreeMap::new(), child: None }
    }
}

/// A running (or stopped) broker; killed when dropped and when this process ends.
#[derive(Debug)]
pub struct Broker {
    how: BrokerBuilder,
    scratch: Scratch,
    /// Of clients and of the controller; known after the first start.
    ports: Option<(u16, u16)>,
    /// Of further listeners.
    doors: BTreeMap<String, u16>,
    child: Option<Child>,
}

impl Broker {
    /// A broker with the usual settings.
    pub fn start() -> Broker {
        Broker::builder().start()
    }

    /// Settings of a broker to be started.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder {
            partitions: 6,
            heap: "256m".to_owned(),
            long_running: false,
            properties: BTreeMap::new(),
            links: Vec::new(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            before: Vec::new(),
            member: None,
            doors: Vec::new(),
            log_requests: false,
        }
    }

    /// `127.0.0.1:PORT`, the same for the whole life of this broker.
    pub fn bootstrap(&self) -> String {
        format!("{}:{}", self.how.host, self.ports.map_or(0, |(clients, _)| clients))
    }

    /// `127.0.0.1:PORT` of a listener made by [`BrokerBuilder::door`].
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn door(&self, name: &str) -> String {
        let port = self.doors.get(name).unwrap_or_else(|| panic!("the broker has no listener {name}"));
        format!("127.0.0.1:{port}")
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where its data, configuration and log are.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// An admin client for one topic.
    ///
    /// # Panics
    /// When the client cannot be made.
    pub fn admin(&self, topic: &str) -> Admin {
        admin(&self.bootstrap(), topic)
    }

    /// Creates a topic and waits until every partition answers; `config` such as `("max.message.bytes", "65536")`.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn create_topic(&self, topic: &str, partitions: i32, config: &[(&str, &str)]) {
        create_topic(&self.bootstrap(), topic, (partitions, 1), config);
    }

    /// Changes a property of a topic that is there, such as `max.message.bytes`; in force when this returns.
    ///
    /// # Panics
    /// When it cannot be changed.
    pub fn set_topic_property(&self, topic: &str, key: &str, value: &str) {
        let mut command = java(&[], "128m");
        command.args(["kafka.admin.ConfigCommand", "--bootstrap-server", &self.bootstrap(), "--alter"]);
        command.args(["--topic", topic, "--add-config", &format!("{key}={value}")]);
        let output = command.stdin(Stdio::null()).output().expect("setpriv and java are installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{key} of topic {topic} cannot be changed:\n{said}");
    }

    /// Ends it in order (SIGTERM), after which nothing unwritten is left.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        process::signal(&child, Signal::TERM);
        assert!(
            process::wait(&mut child, LONG).is_some(),
            "the broker did not stop on SIGTERM:\n{}",
            self.log_tail()
        );
    }

    /// Kills it (SIGKILL), as a crash would.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        process::signal(&child, Signal::KILL);
        let _ = child.wait();
    }

    /// Stops it from running without ending it (SIGSTOP), and waits until none of its threads runs: connections stay open,
    /// nothing answers.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn freeze(&mut self) {
        self.send(Signal::STOP);
        let Some(pid) = self.pid() else { return };
        assert!(wait_until(LONG, || process::is_stopped(pid)), "the broker does not stop");
    }

    /// Lets a frozen broker go on.
    pub fn thaw(&mut self) {
        self.send(Signal::CONT);
    }

    fn send(&self, signal: Signal) {
        if let Some(child) = &self.child {
            process::signal(child, signal);
        }
    }

    /// Starts it on the same data and ports after [`Broker::stop`] or [`Broker::kill`], and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up; with its log.
    pub fn start_again(&mut self) {
        self.launch();
        self.await_ready();
    }

    fn launch(&mut self) {
        assert!(self.child.is_none(), "the broker runs already");
        let directory = self.scratch.path().to_path_buf();
        let properties = directory.join("server.properties");
        write(&properties, &self.properties());
        let log = File::create(self.log()).expect("the scratch folder is ours");
        let logging = if self.how.log_requests { "log4j2-requests.xml" } else { "log4j2.xml" };
        let mut command = java_logging(&self.how.before, &self.how.heap, logging, self.how.long_running);
        command.arg("kafka.Kafka").arg(&properties).current_dir(&directory);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        self.child = Some(process::spawn(command).expect("setpriv and java are installed"));
    }

    fn await_ready(&mut self) {
        self.await_ports();
        let admin = self.admin("is-it-up");
        let up = wait_until(LONG, || !self.has_ended() && answers(&admin));
        assert!(up, "the broker does not answer at {}:\n{}", self.bootstrap(), self.log_tail());
    }

    fn await_ports(&mut self) {
        let found = wait_for(LONG, || {
            if self.has_ended() {
                return None;
            }
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let started = log.contains("Kafka Server started");
            started.then_some(
                self.ports.or_else(|| Some((port(&log, "PLAINTEXT")?, port(&log, "CONTROLLER")?))),
            )?
        });
        self.ports = found;
        assert!(found.is_some(), "the broker did not start:\n{}", self.log_tail());
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let doors = self.how.doors.iter().filter_map(|(name, _)| Some((name.clone(), port(&log, name)?)));
        // The first start tells the ports, later ones are given them.
        self.doors.extend(doors.collect::<Vec<_>>());
    }

    /// Looks whether the process is gone, which ends all waiting for it.
    fn has_ended(&mut self) -> bool {
        let status =
            self.child.as_mut().map(|child| child.try_wait().expect("our own child can be waited for"));
        if let Some(Some(status)) = status {
            panic!("the broker ended with {status}:\n{}", self.log_tail());
        }
        false
    }

    fn log(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn properties(&self) -> String {
        let (clients, controller) = self.ports.unwrap_or((0, 0));
        let host = self.how.host;
        let own = format!("PLAINTEXT://{host}:{clients}");
        let (mut listeners, mut advertised) = (format!("{own},CONTROLLER://{host}:{controller}"), own);
        let (number, quorum, replicas) = match &self.how.member {
            Some(Member { number, voters, .. }) => {
                (*number, ("controller.quorum.voters", voters.clone()), "3")
            }
            None => (1, ("controller.quorum.bootstrap.servers", format!("{host}:{controller}")), "1"),
        };
        let mut protocols = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned();
        for (number, (listener, says)) in self.how.links.iter().enumerate() {
            let _ = write!(listeners, ",LINK{number}://{listener}");
            let _ = write!(advertised, ",LINK{number}://{says}");
            let _ = write!(protocols, ",LINK{number}:PLAINTEXT");
        }
        for (name, protocol) in &self.how.doors {
            let port = self.doors.get(name).copied().unwrap_or(0);
            let _ = write!(listeners, ",{name}://127.0.0.1:{port}");
            let _ = write!(advertised, ",{name}://127.0.0.1:{port}");
            let _ = write!(protocols, ",{name}:{protocol}");
        }
        let mut all = BTreeMap::from([
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", number.to_string()),
            ("listeners", listeners),
            ("advertised.listeners", advertised),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("listener.security.protocol.map", protocols),
            quorum,
            ("log.dirs", self.scratch.path().join("data").display().to_string()),
            ("num.partitions", self.how.partitions.to_string()),
            ("offsets.topic.replication.factor", replicas.to_owned()),
            ("offsets.topic.num.partitions", "4".to_owned()),
            ("transaction.state.log.replication.factor", replicas.to_owned()),
            ("transaction.state.log.min.isr", "1".to_owned()),
            ("transaction.state.log.num.partitions", "4".to_owned()),
            ("group.initial.rebalance.delay.ms", "0".to_owned()),
            ("auto.create.topics.enable", "false".to_owned()),
            // A killed broker may register again only when its old session is over.
            ("broker.session.timeout.ms", "3000".to_owned()),
            ("broker.heartbeat.interval.ms", "500".to_owned()),
            // The log cleaner's default of 128 MiB does not fit the heap.
            ("log.cleaner.dedupe.buffer.size", "2097152".to_owned()),
            ("log.initial.task.delay.ms", "0".to_owned()),
            ("log.retention.check.interval.ms", "500".to_owned()),
        ]);
        all.extend(self.how.properties.iter().map(|(key, value)| (key.as_str(), value.clone())));
        all.iter().fold(String::new(), |mut text, (key, value)| {
            let _ = writeln!(text, "{key}={value}");
            text
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the broker's last lines ({}):\n{}", self.bootstrap(), self.log_tail());
        }
        self.kill();
    }
}

/// The broker that all tests of this process share, each with its own topic ([`unique_topic`]); it ends with the process.
pub fn shared_broker() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(|| Broker::builder().heap("512m").start())
}

/// A topic name that no other test has.
pub fn unique_topic(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{count}-{:08x}", std::process::id(), rand::random::<u32>())
}

pub(crate) fn settings(bootstrap: &str, topic: &str) -> Settings {
    Settings {
        properties: BTreeMap::from([("bootstrap.servers".to_owned(), bootstrap.to_owned())]),
        topic: topic.to_owned(),
        client_id: "streamsend-testkit".to_owned(),
    }
}

pub(crate) fn admin(bootstrap: &str, topic: &str) -> Admin {
    Admin::new(&settings(bootstrap, topic)).unwrap_or_else(|error| panic!("an admin client: {error}"))
}

/// Creates a topic of so many partitions and replicas at any broker and waits until every partition answers.
///
/// # Panics
/// When that does not happen.
pub(crate) fn create_topic(
    bootstrap: &str,
    topic: &str,
    (partitions, replicas): (i32, i32),
    config: &[(&str, &str)],
) {
    let admin = admin(bootstrap, topic);
    let mut last = String::new();
    let created = wait_until(LONG, || {
        let attempt = admin.create_topic(partitions, replicas, config, LOOKUP);
        attempt.map_err(|error| last = error.to_string()).is_ok()
    });
    assert!(created, "topic {topic} cannot be created: {last}");
    let ready = wait_until(LONG, || {
        admin.look_up(LOOKUP).is_ok_and(|info| info.partitions >= partitions)
            && admin.all_watermarks(partitions, LOOKUP).is_ok()
    });
    assert!(ready, "topic {topic} was created and does not answer");
}

fn answers(admin: &Admin) -> bool {
    matches!(admin.look_up(LOOKUP), Ok(_) | Err(kafka::Error::TopicMissing { .. }))
}

/// The port in `… resolved ephemeral port to 41234 …` of a listener.
fn port(log: &str, listener: &str) -> Option<u16> {
    let needle = format!("{listener}: resolved ephemeral port to ");
    let digits = log.split_once(&needle)?.1;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
