//! What is gone from the topic: named in ERROR, counted in `status` and in the metrics.
//!
//! What must never happen here: a loss that is only in one of the three.

use crate::merge::Lost;
use crate::positions::Decision;
use crate::report::Report;
use crate::store::Store;
use daemon::escape_name;
use kafka::TopicInfo;
use protocol::Header;
use std::time::Duration;
use tracing::{error, info, warn};

/// The warning of too many runs is repeated after this.
const RUNS_SAID: Duration = Duration::from_secs(3600);

/// Names open files that records which are gone may have belonged to.
pub fn say_waiting(headers: &[Header]) {
    for header in headers {
        error!(
            "{}: some of its records may be among those that are gone; if so it cannot complete, drop it again at uploader {}",
            escape_name(header.file.path.as_bytes()),
            header.uploader
        );
    }
}

/// A topic of the same name with another id, or without any id and with fewer partitions: what was under way from the old one is gone.
pub fn notice_new_topic(topic: &TopicInfo, store: &mut Store, report: &Report) -> Result<(), ledger::Error> {
    let id = topic.topic_id.as_deref();
    match (id, store.meta("topic_id")?) {
        (Some(id), Some(known)) if known == id => return Ok(()),
        (Some(id), None) => {
            if store.learn_topic(id)? {
                warn!(
                    "the broker tells the topic's id for the first time: the topic is read from its beginning, for it may be another one"
                );
            }
            return Ok(());
        }
        (Some(_), Some(_)) => {}
        // Without an id there is only this to see it by.
        (None, _) if !has_fewer_partitions(topic, store)? => return Ok(()),
        (None, _) => {}
    }
    error!("the topic was deleted and made anew: reading begins at its beginning");
    let under_way = store.load()?.transfers;
    report.lost_with_the_topic(under_way.len() as u64);
    for transfer in under_way {
        let header = &transfer.header;
        error!(
            "{}: lost with the old topic ({} of {} chunks were here) unless its uploader sends it again",
            escape_name(header.file.path.as_bytes()),
            transfer.chunks.count(),
            header.chunk_count()
        );
    }
    store.forget_topic(id)
}

/// Whether a topic that tells no id lacks partitions of which positions are known. A topic may get more, never fewer.
pub fn has_fewer_partitions(topic: &TopicInfo, store: &Store) -> Result<bool, ledger::Error> {
    Ok(topic.topic_id.is_none() && store.knows_partitions_from(topic.partitions)?)
}

/// Says that runs of uploaders were forgotten, and when too many are left.
pub fn say_runs(forgotten: usize, runs: usize, most: usize) {
    if forgotten > 0 {
        info!(
            "{forgotten} run(s) of uploaders are forgotten: none of their records is on the topic any more"
        );
    }
    // Once an hour: each is asked for once a minute.
    static SAID: std::sync::LazyLock<daemon::Throttle> =
        std::sync::LazyLock::new(|| daemon::Throttle::new(RUNS_SAID));
    if runs >= most / 4 * 3 && SAID.allow("runs").is_some() {
        warn!(
            "{runs} runs of uploaders have records on the topic; those above {most} cannot be read: run uploaders as services (each \
             start is a run), or shorten the topic's retention"
        );
    }
}

/// Says which records are gone between what was read and what is there.
pub fn say_positions(decisions: &[Decision], report: &Report) {
    for decision in decisions {
        if let Some((from, to)) = decision.lost {
            report.records_lost(to - from);
            error!(
                "P{:02}: records {from} to {} were removed from the topic (retention or deletion) before they were read; \
                 files that lay in them are named as they are found missing. Raise the topic's retention",
                decision.partition,
                to - 1
            );
        }
        if let Some(records) = decision.ahead {
            let how = match records {
                0 => "has other records below the place that was read up to".to_owned(),
                records => format!("ends {records} record(s) before the place that was read up to"),
            };
            error!(
                "P{:02}: the topic {how}: it was cut off or made \
                 anew; it is read from its beginning, and what was delivered is not delivered again",
                decision.partition
            );
        }
    }
}

/// Names what is lost.
pub fn say_lost(lost: &Lost, report: &Report) {
    report.files_lost(lost.files());
    match lost {
        Lost::File { header, chunks, before_our_time } => {
            let name = escape_name(header.file.path.as_bytes());
            let count = header.chunk_count();
            if *before_our_time {
                warn!(
                    "{name}: began before the oldest record that was read; {chunks} of {count} chunks came"
                );
            } else {
                error!(
                    "{name}: lost: {chunks} of {count} chunks came, the rest is gone from the topic; drop it again at \
                     uploader {}",
                    header.uploader
                );
            }
        }
        Lost::Unseen { uploader, sequences: (first, last), before_our_time } => {
            let files = last - first + 1;
            if *before_our_time {
                info!(
                    "{files} file(s) of uploader {uploader} are older than the oldest record that was read"
                );
            } else {
                error!(
                    "{files} file(s) of uploader {uploader} lost (numbers {first} to {last}): none of their records is on \
                     the topic any more; its log and ledger say which they were"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use std::path::Path;

    #[test]
    fn positions_of_a_run_that_was_told_no_topic_id_are_not_kept_for_the_first_id() {
        let mut fresh = Store::open(Path::new(":memory:")).unwrap();
        assert!(!fresh.learn_topic("first").unwrap(), "there was no run");
        let mut store = Store::open(Path::new(":memory:")).unwrap();
        store.begin(&[(0, 7)], true).unwrap();
        assert_eq!(store.load().unwrap().staged, [(0, 7)]);
        assert!(store.learn_topic("another, or not").unwrap());
        assert_eq!(store.load().unwrap().staged, []);
        assert_eq!(store.meta("topic_id").unwrap().as_deref(), Some("another, or not"));
    }

    #[test]
    fn a_topic_without_id_that_has_fewer_partitions_is_another_one() {
        let topic = |partitions| TopicInfo {
            topic_id: None,
            partitions,
            max_message_bytes: None,
            timestamp_type_log_append: None,
        };
        let mut store = Store::open(Path::new(":memory:")).unwrap();
        store.begin(&[(0, 7), (1, 7)], true).unwrap();
        for partitions in [2, 3] {
            assert!(!has_fewer_partitions(&topic(partitions), &store).unwrap());
        }
        assert!(has_fewer_partitions(&topic(1), &store).unwrap());
        store.forget_topic(None).unwrap();
        assert!(!has_fewer_partitions(&topic(1), &store).unwrap());
        assert_eq!(store.meta("topic_id").unwrap(), None);
    }
}
