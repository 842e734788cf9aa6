//! What the demo runs on: its work folder, the broker and topic, a licence made on the spot, the two configuration files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};
use testkit::Broker;

/// The uploader's name, and so the top folder in the output.
pub(crate) const NAME: &str = "demo";
/// Partitions of the demo's topic.
pub(crate) const PARTITIONS: i32 = 6;
/// Marks a folder as the demo's: only such a one is ever emptied.
const MARKER: &str = ".streamsend-demo";
/// One request to the broker.
const LOOKUP: Duration = Duration::from_secs(20);

/// The demo's folder; removed by Ctrl-C and by the next run.
pub(crate) struct WorkDirectory {
    path: PathBuf,
    keep: bool,
}

impl WorkDirectory {
    pub fn create() -> Result<WorkDirectory> {
        let path = match std::env::var_os("DEMO_DIR") {
            Some(path) if !path.is_empty() => std::path::absolute(path)?,
            // Beside the profile's folder in which this program lies.
            _ => program("streamsend-demo")?.ancestors().nth(2).unwrap_or(Path::new(".")).join("demo"),
        };
        if path.to_str().is_none() {
            bail!("{}: the path must be UTF-8, as it is written into configuration files", path.display());
        }
        let is_ours = path.join(MARKER).exists();
        let is_empty = fs::read_dir(&path).map_or(true, |mut entries| entries.next().is_none());
        if !is_ours && !is_empty {
            bail!(
                "{} is not empty and not a folder of an earlier demo: choose another with DEMO_DIR=",
                path.display()
            );
        }
        if is_ours {
            fs::remove_dir_all(&path).with_context(|| format!("emptying {}", path.display()))?;
        }
        for folder in ["staging", "spool", "output", "config", "logs", "state"] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        fs::write(path.join(MARKER), "")?;
        Ok(WorkDirectory { path, keep: false })
    }

    /// Leaves it there, to be looked into.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        if self.keep {
            println!("the files stay in {} until the next run", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("demo: {} could not be removed: {error}", self.path.display());
        }
    }
}

/// Everything the daemons need.
pub(crate) struct Setup {
    /// Ours, unless `BOOTSTRAP` names another.
    _broker: Option<Broker>,
    pub bootstrap: String,
    pub topic: String,
    pub uploader_config: PathBuf,
    pub downloader_config: PathBuf,
}

impl Setup {
    pub fn new(work: &WorkDirectory) -> Result<Setup> {
        let topic = testkit::unique_topic("streamsend-demo");
        let given = std::env::var("BOOTSTRAP").ok().filter(|text| !text.is_empty());
        let broker = given.is_none().then(|| {
            println!("starting Apache Kafka");
            Broker::builder().partitions(PARTITIONS).heap("512m").start()
        });
        let bootstrap = match (&broker, given) {
            (Some(broker), _) => broker.bootstrap(),
            (None, given) => given.unwrap_or_default(),
        };
        create_topic(&bootstrap, &topic, broker.is_some())?;
        println!("topic {topic} with {PARTITIONS} partitions at {bootstrap}");
        let license = license(work)?;
        let setup = Setup {
            uploader_config: work.path().join("config/uploader.yaml"),
            downloader_config: work.path().join("config/downloader.yaml"),
            _broker: broker,
            bootstrap,
            topic,
        };
        setup.write_config(work, "uploader", &license)?;
        setup.write_config(work, "downloader", &license)?;
        Ok(setup)
    }

    fn write_config(&self, work: &WorkDirectory, program: &str, license: &License) -> Result<()> {
        let path = |name: &str| quoted(&work.path().join(name).to_string_lossy());
        let own = match program {
            "uploader" => format!("spool:\n  - directory: {}\n    name: spool\n", path("spool")),
            _ => format!("output: {}\n", path("output")),
        };
        let text = format!(
            "# Written by the demo.\nname: {NAME}\nkafka:\n  bootstrap.servers: {}\ntopic: {}\nstate_directory: {}\n\
             license:\n  key_file: {}\n  public_key: {}\nlog:\n  directory: {}\n{own}",
            quoted(&self.bootstrap),
            quoted(&self.topic),
            path(&format!("state/{program}")),
            quoted(&license.key_file.to_string_lossy()),
            quoted(&license.public_key),
            path(&format!("logs/{program}")),
        );
        let file = work.path().join(format!("config/{program}.yaml"));
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// Leaves a foreign broker as it was.
    pub fn clean_up(&self) {
        if self._broker.is_none() {
            let deleted = self.admin().and_then(|admin| Ok(admin.delete_topic(LOOKUP)?));
            if let Err(error) = deleted {
                eprintln!("demo: topic {} could not be deleted: {error:#}", self.topic);
            }
        }
    }

    fn admin(&self) -> Result<kafka::Admin> {
        admin(&self.bootstrap, &self.topic)
    }
}

struct License {
    key_file: PathBuf,
    public_key: String,
}

/// A vendor, a key pair and a licence for 30 days.
fn license(work: &WorkDirectory) -> Result<License> {
    let secret = license::keygen()?;
    let now = Timestamp::now();
    let terms = license::Terms {
        id: None,
        issued_to: "Streamsend demo".to_owned(),
        not_before: now,
        expires: now + SignedDuration::from_hours(30 * 24),
        features: vec![license::MULTI_PARTITION.to_owned()],
    };
    let key_file = work.path().join("config/license.key");
    fs::write(&key_file, license::issue(&secret, &terms)? + "\n")?;
    Ok(License { key_file, public_key: secret.public().to_base64() })
}

fn admin(bootstrap: &str, topic: &str) -> Result<kafka::Admin> {
    Ok(kafka::Admin::new(&kafka::Settings {
        properties: [("bootstrap.servers".to_owned(), bootstrap.to_owned())].into(),
        topic: topic.to_owned(),
        client_id: "streamsend-demo".to_owned(),
    })?)
}

fn create_topic(bootstrap: &str, topic: &str, ours: bool) -> Result<()> {
    let admin = admin(bootstrap, topic)?;
    // -1: what a foreign broker thinks right.
    let replication = if ours { 1 } else { -1 };
    let problem = || format!("creating topic {topic} at {bootstrap}");
    admin.create_topic(PARTITIONS, replication, &[], LOOKUP).with_context(problem)?;
    let ready = || admin.look_up(LOOKUP).is_ok_and(|info| info.partitions == PARTITIONS);
    if !testkit::wait_until(Duration::from_secs(60), ready) {
        bail!("topic {topic} was created and does not answer");
    }
    Ok(())
}

/// A program that lies beside this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program's folder")?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!("{} does not exist: run `make demo`, which builds it", path.display());
    }
    Ok(path)
}

/// YAML takes JSON's strings.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
