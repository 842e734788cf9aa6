//! Watches the topic: waits for the broker for ever, looks partitions and limits up again and again, makes the topic if
//! told to.
//!
//! What must never happen here: a record allowed before every partition has answered for itself (a fresh partition may
//! lose an acknowledged record), or a fault logged more than once in 30 seconds.

use crate::bell::{Bell, Reporter};
use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use daemon::{CreateTopic, ProfileLimits, Shutdown, Throttle};
use kafka::{Admin, Distance, Error, Settings, TopicInfo};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// One look-up may take so long; shorter than the time a shutdown has.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(4);
/// First wait after a look-up that failed; doubled each time…
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
/// …up to this.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Least time between two look-ups that somebody asked for: the first file after a start waits for up to two of them, as the first record
/// of each partition asks for one…
const ASKED_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// …and after so many of them without a pause…
const ASKED_SOON_MAX: u32 = 10;
/// …this much: then what asks for them will not be cured by one, and services count requests.
const ASKED_OFTEN_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// The question for rights holds nothing up for longer.
const RIGHTS_TIMEOUT: Duration = Duration::from_secs(4);

/// So often the broker is asked how far it is, at most; not again once it turned out to be near.
const DISTANCE_TIMES: usize = 8;

/// What is said of a broker that is away goes under this key.
const AWAY: &str = "away";

/// What a look-up found.
#[derive(Clone, Debug)]
pub struct Look {
    /// The topic.
    pub topic: TopicInfo,
    /// Which look-up it was, from 1 on: it tells nothing of what happened after it began, see [`Watch::begun`].
    pub number: u64,
}

/// The watching thread.
pub struct Watch {
    /// What the topic looks like, after each look-up that worked.
    pub reports: Receiver<Look>,
    begun: Arc<AtomicU64>,
    asks: Sender<()>,
    throttle: Arc<Throttle>,
    distance: Arc<OnceLock<Distance>>,
}

/// What to watch.
pub struct Subject {
    /// How to reach the broker.
    pub settings: Settings,
    /// `create_topic`, where the service can.
    pub create: Option<CreateTopic>,
    /// Whether the service's answer about the topic's configuration can be believed; if not, it is not asked for.
    pub ask_config: bool,
    /// Time between two look-ups.
    pub interval: Duration,
}

impl Watch {
    /// Starts watching; `bell` is rung for each report. Fails only on the configuration.
    pub fn start(subject: Subject, bell: &Bell, shutdown: Shutdown) -> Result<Watch, daemon::Stop> {
        let mut admin = Admin::new(&subject.settings)
            .map_err(|error| daemon::Stop::new(daemon::Exit::Configuration, error.to_string()))?;
        if !subject.ask_config {
            admin = admin.without_topic_config();
        }
        let (reporter, reports) = bounded(1);
        let reporter = Reporter::new(reporter, bell);
        let (asks, asked) = bounded(1);
        let throttle = Arc::new(Throttle::default());
        let said = Arc::clone(&throttle);
        let distance = Arc::new(OnceLock::new());
        let begun = Arc::new(AtomicU64::new(0));
        let watcher = Watcher {
            begun: Arc::clone(&begun),
            asked_soon: 0,
            admin,
            subject,
            shutdown,
            asked,
            throttle: said,
            distance: Arc::clone(&distance),
            checked: None,
            rights_asked: false,
        };
        // Detached: a look-up may last longer than the shutdown; it holds nothing that must be saved.
        std::thread::Builder::new()
            .name("topic-watch".into())
            .spawn(move || watcher.run(&reporter))
            .map_err(|error| daemon::Stop::io("cannot start a thread", &error))?;
        Ok(Watch { reports, begun, asks, throttle, distance })
    }

    /// The ends without the thread, for the simulation.
    pub fn without_thread() -> (Watch, Sender<Look>, Receiver<()>) {
        let (reporter, reports) = bounded(1);
        let (asks, asked) = bounded(1);
        let (begun, throttle, distance) = (Arc::default(), Arc::default(), Arc::default());
        (Watch { reports, begun, asks, throttle, distance }, reporter, asked)
    }

    /// Number of the last look-up that has begun. Those with a higher one tell of everything that has happened by now.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Number of a look-up that begins now, where there is no thread to look.
    pub fn begin(&self) -> u64 {
        begin(&self.begun)
    }

    /// How far the brokers were at the start; known before the first report, unless the broker fell silent in between.
    pub fn distance(&self) -> Distance {
        self.distance.get().copied().unwrap_or(Distance { round_trip: Duration::ZERO, leaders: 1 })
    }

    /// Whether it may be said now that the broker is away: one fault, whoever meets it first.
    pub fn may_say_away(&self) -> bool {
        self.throttle.allow(AWAY).is_some()
    }

    /// Asks for a look-up now. One that is asked for already is enough.
    pub fn ask(&self) {
        let _asked_already = self.asks.try_send(());
    }
}

/// Before the first question of a look-up.
fn begin(begun: &AtomicU64) -> u64 {
    begun.fetch_add(1, Ordering::SeqCst) + 1
}

struct Watcher {
    /// Look-ups that have begun.
    begun: Arc<AtomicU64>,
    /// Look-ups in a row that somebody asked for.
    asked_soon: u32,
    admin: Admin,
    subject: Subject,
    shutdown: Shutdown,
    asked: Receiver<()>,
    throttle: Arc<Throttle>,
    distance: Arc<OnceLock<Distance>>,
    /// Partitions, and topic id, for which every partition answered.
    checked: Option<(i32, Option<String>)>,
    rights_asked: bool,
}

impl Watcher {
    fn run(mut self, reporter: &Reporter<Look>) {
        let mut back_off = BACK_OFF_MIN;
        loop {
            let number = begin(&self.begun);
            let found = self.look();
            if self.shutdown.requested() {
                return;
            }
            match found {
                Ok(info) => {
                    back_off = BACK_OFF_MIN;
                    if !std::mem::replace(&mut self.rights_asked, true) {
                        self.ask_rights();
                        self.compare_clocks(&info);
                        self.measure_distance();
                    }
                    let look = Look { topic: info, number };
                    if reporter.send(look).is_err() || self.wait(self.subject.interval, true) {
                        return;
                    }
                }
                Err(error) => {
                    let created = self.complain(&error);
                    if !created && self.wait(back_off, false) {
                        return;
                    }
                    back_off = (back_off * 2).min(BACK_OFF_MAX);
                }
            }
        }
    }

    /// Before the first record: whether this user may send any. He may be given the right at any time, so nothing ends here.
    fn ask_rights(&self) {
        let topic = &self.subject.settings.topic;
        match self.admin.topic_rights(RIGHTS_TIMEOUT) {
            Ok(Some(rights)) => {
                let missing = checks::missing_rights(checks::Need::Upload, rights);
                if let Some(first) = missing.first() {
                    let user =
                        self.subject.settings.properties.get("sasl.username").map_or("USER", String::as_str);
                    tracing::error!(
                        "no right to {} on topic {topic}: nothing can be sent until it is given: kafka-acls.sh --add \
                         --allow-principal User:{user} --operation {first} --topic {topic}",
                        missing.join(" and ")
                    );
                }
            }
            Ok(None) | Err(_) => tracing::debug!("the broker does not tell what this user may do"),
        }
    }

    /// A service whose answers are not to be relied on is not asked for more than is needed.
    fn compare_clocks(&self, info: &TopicInfo) {
        if self.subject.ask_config {
            let log_append_time = info.timestamp_type_log_append;
            let found = checks::topic::clock(&self.admin, info.partitions, log_append_time, RIGHTS_TIMEOUT);
            // A clock is never a reason to end.
            let _ = checks::act_on(found.as_slice());
        }
    }

    fn measure_distance(&self) {
        match self.admin.distance(DISTANCE_TIMES, crate::clients::NEAR, LOOK_UP_TIMEOUT) {
            Ok(distance) => {
                let milliseconds = distance.round_trip.as_secs_f64() * 1e3;
                tracing::debug!(
                    "{} broker(s) lead the topic, {milliseconds:.1} ms there and back",
                    distance.leaders
                );
                // Measured once.
                let _ = self.distance.set(distance);
            }
            Err(error) => tracing::debug!("how far the broker is cannot be said: {error}"),
        }
    }

    fn look(&mut self) -> kafka::Result<TopicInfo> {
        let info = self.admin.look_up(LOOK_UP_TIMEOUT)?;
        let now = (info.partitions, info.topic_id.clone());
        if self.checked.as_ref() != Some(&now) {
            self.admin.all_watermarks(info.partitions, LOOK_UP_TIMEOUT)?;
            self.checked = Some(now);
        }
        Ok(info)
    }

    /// Says what is wrong. True when the topic was missing and has been made.
    fn complain(&self, error: &Error) -> bool {
        let topic = &self.subject.settings.topic;
        if let Error::TopicMissing { .. } = error {
            if let Some(create) = self.subject.create {
                return self.create(create);
            }
            if self.throttle.allow("missing").is_some() {
                let command = self.subject.settings.create_command();
                tracing::warn!("topic {topic} does not exist: waiting for it; create it with: {command}");
            }
            return false;
        }
        match error {
            Error::NotAuthorized(_) | Error::InvalidConfig(_)
                if self.throttle.allow(std::mem::discriminant(error)).is_some() =>
            {
                tracing::error!("{error}; trying again");
            }
            Error::NotAuthorized(_) | Error::InvalidConfig(_) => {}
            _ if self.throttle.allow(AWAY).is_some() => {
                tracing::warn!("{error}; trying again until it works");
            }
            _ => {}
        }
        false
    }

    fn create(&self, create: CreateTopic) -> bool {
        let CreateTopic { partitions, replication } = create;
        let topic = &self.subject.settings.topic;
        match self.admin.create_topic(partitions, replication, &kafka::TOPIC_CONFIG, LOOK_UP_TIMEOUT) {
            Ok(()) => {
                tracing::info!("topic {topic} created: {partitions} partition(s), replication {replication}");
                true
            }
            Err(error) => {
                if self.throttle.allow("create").is_some() {
                    tracing::error!("topic {topic} is missing and cannot be created: {error}; trying again");
                }
                false
            }
        }
    }

    /// Waits; true when the process is to end.
    fn wait(&mut self, time: Duration, until_asked: bool) -> bool {
        let end = self.shutdown.channel();
        let often = self.asked_soon >= ASKED_SOON_MAX;
        let least = if often { ASKED_OFTEN_INTERVAL_MIN } else { ASKED_INTERVAL_MIN };
        select! {
            recv(end) -> _ => return true,
            default(least.min(time)) => {}
        }
        let nobody = never();
        let asked = if until_asked { &self.asked } else { &nobody };
        select! {
            recv(end) -> _ => true,
            recv(asked) -> gone => {
                self.asked_soon = self.asked_soon.saturating_add(1);
                gone.is_err()
            }
            default(time.saturating_sub(least)) => {
                self.asked_soon = 0;
                false
            }
        }
    }
}

/// What is known after another look, and whether it is another topic under the old name.
///
/// What a look did not tell (a broker that was slow or newly started) is as it was: a limit that is only unknown for a
/// moment must not send large files back to their beginning. The partitions of one topic never become fewer; a broker
/// that says so has old news.
pub fn after_look(old: &TopicInfo, new: TopicInfo) -> (TopicInfo, bool) {
    let same_id = old.topic_id.as_ref().zip(new.topic_id.as_ref()).map(|(old, new)| old == new);
    let other = same_id.map_or(new.partitions < old.partitions, |same| !same);
    if other {
        return (new, true);
    }
    let known = TopicInfo {
        topic_id: new.topic_id.or_else(|| old.topic_id.clone()),
        partitions: new.partitions.max(old.partitions),
        max_message_bytes: new.max_message_bytes.or(old.max_message_bytes),
        timestamp_type_log_append: new.timestamp_type_log_append.or(old.timestamp_type_log_append),
    };
    (known, false)
}

/// The largest record a topic takes, from what it says, what its service publishes, and what was refused.
#[derive(Clone, Debug)]
pub struct RecordLimit {
    profile_max: Option<usize>,
    believe_topic: bool,
    /// Said by the topic when a record within that was refused, and what to assume since.
    learned: Option<(Option<usize>, usize)>,
}

impl RecordLimit {
    /// By the service's published limits.
    pub fn new(profile: &ProfileLimits) -> RecordLimit {
        RecordLimit {
            profile_max: profile.max_record_bytes,
            believe_topic: profile.rely_on_describe_configs,
            learned: None,
        }
    }

    /// The limit, in the meaning of `max.message.bytes`.
    pub fn of(&mut self, info: &TopicInfo) -> usize {
        let said = info.max_message_bytes.filter(|_| self.believe_topic);
        self.learned = self.learned.filter(|(then, _)| *then == said);
        let most = self.learned.map_or(usize::MAX, |(_, most)| most);
        said.unwrap_or(kafka::DEFAULT_MAX_MESSAGE_BYTES).min(self.profile_max.unwrap_or(usize::MAX)).min(most)
    }

    /// A record of so many bytes was refused for its size, although the limit allowed it: assume half, until the topic says
    /// something new. Gives the new limit, if this changed anything.
    ///
    /// The broker looks at batches and refuses all their records together, so a small record proves only that `batch_max`
    /// bytes are too many. What a client with the limit of before still has in its batches proves nothing new: all
    /// records of a batch halve the limit once. It is always more than half of what the broker takes.
    pub fn refused(&mut self, info: &TopicInfo, record_bytes: usize, batch_max: usize) -> Option<usize> {
        let too_many = record_bytes.max(batch_max);
        if too_many > self.of(info) {
            return None;
        }
        let said = info.max_message_bytes.filter(|_| self.believe_topic);
        let least = protocol::RECORD_OVERHEAD_BYTES + protocol::LEAF_BYTES as usize;
        let before = self.learned.replace((said, (too_many / 2).max(least)));
        (self.learned != before).then(|| self.of(info))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(max_message_bytes: Option<usize>) -> TopicInfo {
        TopicInfo { topic_id: None, partitions: 6, max_message_bytes, timestamp_type_log_append: None }
    }

    #[test]
    fn the_limit_is_what_topic_and_service_agree_on() {
        let kafka = daemon::profile_limits(daemon::Profile::Kafka, "");
        assert_eq!(RecordLimit::new(&kafka).of(&info(Some(5_000_000))), 5_000_000);
        assert_eq!(RecordLimit::new(&kafka).of(&info(None)), kafka::DEFAULT_MAX_MESSAGE_BYTES);
        let oci = daemon::profile_limits(daemon::Profile::Oci, "");
        assert_eq!(RecordLimit::new(&oci).of(&info(Some(5_000_000))), 1_000_000);
    }

    #[test]
    fn a_look_that_tells_less_changes_nothing_and_another_id_is_another_topic() {
        let looked = |id: Option<&str>, partitions, max_message_bytes| TopicInfo {
            topic_id: id.map(str::to_owned),
            partitions,
            max_message_bytes,
            timestamp_type_log_append: None,
        };
        let old = looked(Some("a"), 6, Some(10_000_000));
        assert_eq!(after_look(&old, looked(None, 6, None)), (old.clone(), false));
        assert_eq!(after_look(&old, looked(Some("a"), 4, None)), (old.clone(), false), "old news");
        assert_eq!(after_look(&old, looked(Some("a"), 8, Some(5))), (looked(Some("a"), 8, Some(5)), false));
        assert_eq!(after_look(&old, looked(Some("b"), 6, None)), (looked(Some("b"), 6, None), true));
        assert_eq!(after_look(&old, looked(None, 4, None)), (looked(None, 4, None), true));
    }

    #[test]
    fn a_refusal_that_the_topic_does_not_explain_halves_the_limit_until_it_says_more() {
        let mut limit = RecordLimit::new(&daemon::profile_limits(daemon::Profile::Kafka, ""));
        assert_eq!(limit.refused(&info(Some(500_000)), 900_000, 1_000), None, "the topic explains it");
        assert_eq!(limit.of(&info(Some(500_000))), 500_000);
        assert_eq!(limit.refused(&info(Some(500_000)), 400_000, 1_000), Some(200_000));
        assert_eq!(limit.of(&info(Some(500_000))), 200_000);
        assert_eq!(limit.of(&info(Some(600_000))), 600_000);
        assert!(limit.refused(&info(None), 10, 10).is_some());
        assert!(protocol::chunk_size_for(limit.of(&info(None)), None).is_ok());
        assert_eq!(limit.refused(&info(None), 10, 10), None, "it becomes no smaller");
    }

    #[test]
    fn a_batch_of_small_records_that_is_refused_halves_the_limit_once_and_then_until_it_fits() {
        let mut limit = RecordLimit::new(&daemon::profile_limits(daemon::Profile::Kafka, ""));
        let settings =
            Settings { properties: Default::default(), topic: "t".into(), client_id: "test".into() };
        let batch_max = |limit: usize| {
            let message_max_bytes = protocol::client_message_max(limit);
            let tuning = kafka::ProducerTuning {
                message_max_bytes,
                queue_max_kbytes: 1_000,
                idempotence: true,
                linger: Duration::ZERO,
            };
            kafka::batch_max(&settings, &tuning)
        };
        // The broker takes this much, and does not say so.
        let takes = 300_000;
        let mut clients = Vec::new();
        while batch_max(limit.of(&info(None))) > takes {
            let batch_max = batch_max(limit.of(&info(None)));
            clients.push(batch_max);
            let changes = (0..40).filter_map(|_| limit.refused(&info(None), 6_000, batch_max));
            assert_eq!(changes.count(), 1);
            // Reports of the clients of before come late.
            assert!(clients.iter().all(|old| limit.refused(&info(None), 6_000, *old).is_none()));
        }
        assert_eq!(clients.len(), 2);
        assert!(limit.of(&info(None)) > takes / 2, "{}", limit.of(&info(None)));
        let chunk = 290_000;
        let batch_max = batch_max(limit.of(&info(None)));
        assert_eq!(limit.refused(&info(None), chunk, batch_max), None, "sent before");
    }
}
