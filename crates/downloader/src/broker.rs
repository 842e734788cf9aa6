//! Asking the broker about the topic, and waiting for it for ever.
//!
//! What must never happen here: giving up on a broker that is away, or a fault logged more than once in 30 s.

use crossbeam_channel::RecvTimeoutError;
use daemon::{CommonSettings, Context, CreateTopic, Exit, ProfileLimits, Stop, Throttle};
use kafka::{Admin, Error, Settings, TopicInfo, Watermarks};
use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// Bound of one question at first: seconds are plenty where a broker is near.
const ASK_MIN: Duration = Duration::from_secs(2);
/// A question that had no answer gets twice the time next, up to this: a link may be long, or full of file content. A
/// shutdown may have to wait for one question, or for two when the second has begun.
const ASK_MAX: Duration = Duration::from_secs(5);
/// The watchdog is fed so often at least.
const WATCHDOG_TURN: Duration = Duration::from_secs(1);
/// The questions for rights hold nothing up for longer.
pub const RIGHTS_TIMEOUT: Duration = Duration::from_secs(4);
/// A broker that takes longer than this for the first question is not asked the second, which takes several answers.
const NEAR: Duration = Duration::from_millis(300);
/// A broker that answers within this is near. Over a longer way larger answers carry more: one is on its way per broker.
const NEAR_WAY: Duration = Duration::from_millis(5);
/// Questions for the length of the way, at most; the shortest time counts.
const WAY_QUESTIONS: usize = 10;
/// Looks at a topic without id that has fewer partitions than before, beside the first: a broker may be the last to hear of new ones…
const STILL_LOOKS: u32 = 3;
/// …and the time before each.
const STILL_PAUSE: Duration = Duration::from_secs(2);
/// Looks that may tell no id before nothing is read yet: behind a long link, or from a busy broker, the first does not tell it in time.
const FIRST_LOOKS: u32 = 4;
/// First wait after a failed question; doubled each time…
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
/// …up to this.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Waits so long, or until the end is asked for. Waiting is no hang: the watchdog gets its food meanwhile.
pub fn pause(context: &Context, time: Duration) {
    let begun = Instant::now();
    while let Some(left) = time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        context.status.progress();
        // Ends early, with an error, exactly when the end was asked for.
        let nobody_sends = context.shutdown.channel().recv_timeout(left.min(WATCHDOG_TURN));
        if nobody_sends == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// What came of a question about the partitions of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfTopic<T> {
    /// The answer.
    Answer(T),
    /// The topic of this name is another one by now, or has another number of partitions.
    Other,
}

/// Whether the topic that is there now is another one than `before`, or has another number of partitions. An id that is not told tells
/// nothing.
pub fn is_other(before: &TopicInfo, now: &TopicInfo) -> bool {
    let other_id = now.topic_id.is_some() && now.topic_id != before.topic_id;
    other_id || now.partitions != before.partitions
}

/// What hangs on the topic's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdNeed {
    /// It was told before: without it another topic of the same name could be read from the middle.
    Known,
    /// Nothing was read yet. The place that is chosen without it is given away when it is told later, for the topic may be another one
    /// by then; so it is asked for so many times more, and no more: an old broker never tells it.
    First(Cell<u32>),
    /// It was never told, and much may have been read without it.
    Without,
}

impl IdNeed {
    /// For a ledger that remembers an id, or has begun.
    pub fn new(is_known: bool, has_begun: bool) -> IdNeed {
        match (is_known, has_begun) {
            (true, _) => IdNeed::Known,
            (false, false) => IdNeed::First(Cell::new(FIRST_LOOKS - 1)),
            (false, true) => IdNeed::Without,
        }
    }

    /// Whether another look is to tell the id, after one that did not.
    fn asks_again(&self) -> bool {
        match self {
            IdNeed::Known => true,
            IdNeed::First(left) => left.replace(left.get().saturating_sub(1)) > 0,
            IdNeed::Without => false,
        }
    }
}

/// The broker, as far as questions about the topic go.
pub struct Broker {
    admin: Admin,
    settings: Settings,
    create: Option<CreateTopic>,
    throttle: Throttle,
    /// Bound of the next question, milliseconds.
    ask_ms: AtomicU64,
    rights_asked: Once,
    asks_config: bool,
}

impl Broker {
    /// A client for questions. Fails only on the configuration.
    pub fn new(common: &CommonSettings, profile: &ProfileLimits, settings: Settings) -> Result<Broker, Stop> {
        let mut admin =
            Admin::new(&settings).map_err(|error| Stop::new(Exit::Configuration, error.to_string()))?;
        if !profile.rely_on_describe_configs {
            admin = admin.without_topic_config();
        }
        Ok(Broker {
            admin,
            settings,
            create: common.create_topic.filter(|_| profile.can_create_topic),
            throttle: Throttle::new(Throttle::INTERVAL),
            ask_ms: AtomicU64::new(ASK_MIN.as_millis() as u64),
            rights_asked: Once::new(),
            asks_config: profile.rely_on_describe_configs,
        })
    }

    /// How long the next question may take.
    pub fn ask_time(&self) -> Duration {
        Duration::from_millis(self.ask_ms.load(Ordering::Relaxed))
    }

    fn ask_longer(&self) {
        let longer = (self.ask_time() * 2).min(ASK_MAX);
        self.ask_ms.store(longer.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether the way to the brokers is short (not, when nothing is known), and how many of them lead a partition.
    pub fn way(&self) -> (bool, usize) {
        let distance = self.admin.distance(WAY_QUESTIONS, NEAR_WAY, self.ask_time());
        distance.map_or((false, 1), |distance| (distance.round_trip <= NEAR_WAY, distance.leaders))
    }

    /// One look; faults are said (throttled).
    pub fn look_up(&self) -> Option<TopicInfo> {
        self.said(self.admin.look_up(self.ask_time()))
    }

    /// Once, before the first record: whether this user may read the topic and see the group's offsets, and whether the clocks of
    /// both sides can be right. He may be given the rights at any time, so nothing ends here.
    ///
    /// `on_group` asks as a consumer: librdkafka 2.12 ends the process (an assertion in `rd_kafka_enq_once_del_source_return`) when an
    /// administrator's question to a group's broker is answered late, or when that broker dies meanwhile.
    pub fn ask_rights(&self, group: &str, info: &TopicInfo, on_group: impl FnOnce() -> kafka::Result<()>) {
        self.rights_asked.call_once(|| {
            let topic = &self.settings.topic;
            let begun = Instant::now();
            let on_topic = self.admin.topic_rights(RIGHTS_TIMEOUT);
            let near = begun.elapsed() <= NEAR;
            let on_group = if near { on_group() } else { Ok(()) };
            let missing = |need, answer: kafka::Result<Option<kafka::Rights>>| match answer {
                Ok(Some(rights)) => checks::missing_rights(need, rights),
                Err(Error::NotAuthorized(_)) => checks::missing_rights(need, kafka::Rights::default()),
                Ok(None) | Err(_) => Vec::new(),
            };
            let user = self.settings.properties.get("sasl.username").map_or("USER", String::as_str);
            let add = format!("kafka-acls.sh --add --allow-principal User:{user} --operation Read");
            let lacks = missing(checks::Need::Download, on_topic);
            if !lacks.is_empty() {
                let what = lacks.join(" and ");
                error!("no right to {what} on topic {topic}: nothing can be read until it is given: {add} --topic {topic}");
            }
            if matches!(on_group, Err(Error::NotAuthorized(_))) {
                warn!(
                    "no right to Read group {group}: lag tools see nothing, and a lost state directory means beginning anew: \
                     {add} --group {group}"
                );
            }
            if self.asks_config {
                let log_append_time = info.timestamp_type_log_append;
                let found = checks::topic::clock(&self.admin, info.partitions, log_append_time, RIGHTS_TIMEOUT);
                // A clock is never a reason to end.
                let _ = checks::act_on(found.as_slice());
            }
        });
    }

    /// One look; `None` also when it must tell the topic's id, and does not.
    pub fn look_up_with_id(&self, need: &IdNeed) -> Option<TopicInfo> {
        let topic = self.look_up()?;
        if topic.topic_id.is_some() || !need.asks_again() {
            return Some(topic);
        }
        // It is asked for in a part of the time.
        self.ask_longer();
        if matches!(need, IdNeed::Known) && self.throttle.allow("id").is_some() {
            warn!("the broker does not tell the topic's id, which it told before; asking again");
        }
        None
    }

    /// Looks again and again, for some seconds: whether the topic is what it was. False also when the daemon shall end.
    pub fn is_still(&self, context: &Context, topic: &TopicInfo) -> bool {
        (0..STILL_LOOKS).all(|_| {
            pause(context, STILL_PAUSE);
            !context.shutdown.requested() && self.look_up().is_some_and(|now| !is_other(topic, &now))
        })
    }

    /// One question for all watermarks; faults are said (throttled). `ends`: whether the run is about to end.
    pub fn watermarks(&self, partitions: i32, ends: impl Fn() -> bool) -> Option<Vec<Watermarks>> {
        let answer = self.said(self.admin.all_watermarks(partitions, self.ask_time()));
        // While the brokers are away each question takes its whole time, and the daemon has ten seconds to end.
        if answer.is_none() && !ends() {
            // What the client believes of leaders and their epochs may be old, and only asking for the topic renews it.
            let _ = self.admin.look_up(self.ask_time());
        }
        answer
    }

    /// The watermarks of all partitions of this topic; `None` when the daemon shall end.
    pub fn watermarks_of(&self, context: &Context, topic: &TopicInfo) -> Option<OfTopic<Vec<Watermarks>>> {
        self.wait_for_topic(context, topic, |admin, timeout| admin.all_watermarks(topic.partitions, timeout))
    }

    /// Offsets of the first records of this topic at or after a time; `None` when the daemon shall end.
    pub fn offsets_for_time(
        &self,
        context: &Context,
        topic: &TopicInfo,
        unix_ms: i64,
    ) -> Option<OfTopic<Vec<i64>>> {
        let ask = |admin: &Admin, timeout| admin.offsets_for_time(topic.partitions, unix_ms, timeout);
        self.wait_for_topic(context, topic, ask)
    }

    /// Asks about partitions of this topic until there is an answer. When there is none at once, the topic may be another one by now: who asks for
    /// partitions that it does not have asks for ever, and an answer may be about the other one.
    fn wait_for_topic<T>(
        &self,
        context: &Context,
        topic: &TopicInfo,
        ask: impl Fn(&Admin, Duration) -> kafka::Result<T>,
    ) -> Option<OfTopic<T>> {
        let asked_before = Cell::new(false);
        let answer = self.wait_for(context, |broker| {
            let answer = broker.said(ask(&broker.admin, broker.ask_time()));
            if !asked_before.replace(true) && answer.is_some() {
                return answer.map(OfTopic::Answer);
            }
            if context.shutdown.requested() {
                return None;
            }
            // This also renews what the client believes of leaders and their epochs.
            let now = broker.admin.look_up(broker.ask_time()).ok()?;
            if is_other(topic, &now) { Some(OfTopic::Other) } else { answer.map(OfTopic::Answer) }
        })?;
        if matches!(answer, OfTopic::Other) {
            if self.throttle.allow("other").is_some() {
                info!(
                    "the topic is another one than a moment ago, or has more or fewer partitions: looking at it again"
                );
            }
            // Brokers may disagree about it for a while.
            pause(context, BACK_OFF_MIN);
        }
        Some(answer)
    }

    /// Asks until there is an answer; `None` when the daemon shall end.
    pub fn wait_for<T>(&self, context: &Context, ask: impl Fn(&Broker) -> Option<T>) -> Option<T> {
        let mut back_off = BACK_OFF_MIN;
        loop {
            if context.shutdown.requested() {
                return None;
            }
            context.status.progress();
            if let Some(answer) = ask(self) {
                return Some(answer);
            }
            pause(context, back_off);
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// Says that the connection has a fault, in the words of another client (throttled together with our own).
    pub fn say_away(&self, complaint: &str) {
        if self.throttle.allow("away").is_some() {
            warn!("Kafka cannot be reached: {complaint}; waiting for it");
        }
    }

    /// The answer, if there is one; faults are said (throttled).
    pub fn said<T>(&self, answer: kafka::Result<T>) -> Option<T> {
        let error = match answer {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        match &error {
            Error::TopicMissing { .. } => self.missing(),
            Error::NotAuthorized(_) | Error::InvalidConfig(_) => {
                if self.throttle.allow("refused").is_some() {
                    error!("{error}; trying again");
                }
            }
            Error::Unreachable(_) | Error::Other(_) => {
                self.ask_longer();
                if self.throttle.allow("away").is_some() {
                    warn!("{error}; waiting for it");
                }
            }
        }
        None
    }

    fn missing(&self) {
        let topic = &self.settings.topic;
        if let Some(CreateTopic { partitions, replication }) = self.create {
            match self.admin.create_topic(partitions, replication, &kafka::TOPIC_CONFIG, self.ask_time()) {
                Ok(()) => info!("topic {topic} created with {partitions} partition(s)"),
                Err(error) if self.throttle.allow("create").is_some() => {
                    error!("topic {topic} cannot be created: {error}; trying again");
                }
                Err(_) => {}
            }
            return;
        }
        if self.throttle.allow("missing").is_some() {
            let command = self.settings.create_command();
            warn!("topic {topic} does not exist: waiting for it; create it with: {command}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_asked_for_again_where_a_place_hangs_on_it_and_not_for_ever_where_none_was_told() {
        let asked = |is_known, has_begun| {
            let need = IdNeed::new(is_known, has_begun);
            (0..100).take_while(|_| need.asks_again()).count()
        };
        assert_eq!((asked(true, true), asked(true, false)), (100, 100));
        assert_eq!(asked(false, false), FIRST_LOOKS as usize - 1);
        assert_eq!(asked(false, true), 0);
    }
}
