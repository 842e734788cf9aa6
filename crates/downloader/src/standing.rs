//! Partitions that stand still although the topic has more: a place that the broker gives nothing of, neither record nor
//! error nor end, or only errors that say nothing about the bytes.
//!
//! Pure: the housekeeping tells it what it sees, it says what to do. A damaged length in a broker's file looks like this, and
//! so does a client that lost its way: so first a new client asks, then a person is called. Nothing is skipped here: a broker
//! that cannot give a record now may be able to later. What must never happen here: an alarm for a partition that is at its
//! end, or that waits for this side (disk, open files, the committer, the search for the end of a batch).

use crate::merge::PartitionView;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// So long a partition may give nothing before its high watermark is asked for.
pub const STANDING: Duration = Duration::from_secs(60);
/// The alarm is repeated after this.
const AGAIN: Duration = Duration::from_secs(600);

/// What is to be done about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Let another client read: the first time at a place.
    Renew,
    /// Call a person: another client gave nothing either.
    Alarm,
    /// It goes on after an alarm.
    Resumed,
}

#[derive(Debug)]
struct Place {
    position: i64,
    /// Since when nothing came, or the watermarks were last seen not to be beyond it.
    since: Instant,
    said: Said,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Renewed,
    Alarmed(Instant),
}

/// All partitions, over all runs; one entry per partition.
#[derive(Debug, Default)]
pub struct Standing {
    places: BTreeMap<i32, Place>,
}

impl Standing {
    /// What the housekeeping sees in a turn. `shared_reader`: one reader for all, which waits for all when it waits for
    /// one. `held` are partitions with a case of their own. Returns those that go on after an alarm; true when the high
    /// watermarks are worth a question.
    pub fn look(
        &mut self,
        now: Instant,
        views: &[PartitionView],
        shared_reader: bool,
        held: impl Fn(i32) -> bool,
    ) -> (Vec<(i32, i64)>, bool) {
        let waits = |view: &PartitionView, places: &BTreeMap<i32, Place>| {
            view.in_hands && places.get(&view.partition).is_some_and(|place| place.position == view.received)
        };
        let all_wait = shared_reader && views.iter().any(|view| waits(view, &self.places));
        let mut resumed = Vec::new();
        for view in views {
            let waits = all_wait || view.in_hands || held(view.partition);
            let fresh = Place { position: view.received, since: now, said: Said::Nothing };
            match self.places.get_mut(&view.partition) {
                Some(place) if place.position == view.received => {
                    if waits {
                        place.since = now;
                    }
                }
                Some(place) => {
                    if matches!(place.said, Said::Alarmed(_)) {
                        resumed.push((view.partition, view.received));
                    }
                    *place = fresh;
                }
                None => drop(self.places.insert(view.partition, fresh)),
            }
        }
        self.places.retain(|partition, _| views.iter().any(|view| view.partition == *partition));
        let due = self.places.values().any(|place| now.duration_since(place.since) >= STANDING);
        (resumed, due)
    }

    /// The high watermarks, asked for because [`Standing::look`] said so: partition, position, what to do.
    pub fn judge(&mut self, now: Instant, highs: &[(i32, i64)]) -> Vec<(i32, i64, Step)> {
        let mut steps = Vec::new();
        for (partition, place) in &mut self.places {
            if now.duration_since(place.since) < STANDING {
                continue;
            }
            // Whatever is found: the next question is due after the same time again.
            place.since = now;
            let high = highs.iter().find(|(number, _)| number == partition).map(|(_, high)| *high);
            if high.is_none_or(|high| high <= place.position) {
                continue;
            }
            let step = match place.said {
                Said::Nothing => {
                    place.said = Said::Renewed;
                    Step::Renew
                }
                Said::Alarmed(at) if now.duration_since(at) < AGAIN => continue,
                Said::Renewed | Said::Alarmed(_) => {
                    place.said = Said::Alarmed(now);
                    Step::Alarm
                }
            };
            steps.push((*partition, place.position, step));
        }
        steps
    }
}

/// Says what is done about a partition.
pub fn say(partition: i32, position: i64, high: i64, step: Step) {
    let (place, last, seconds) = (format!("P{partition:02} offset {position}"), high - 1, STANDING.as_secs());
    match step {
        Step::Renew => warn!(
            "{place}: the broker has records up to {last} and has given none for {seconds} s: asking with another client"
        ),
        Step::Alarm => error!(
            "{place}: the broker has records up to {last} and gives none of them, to another client neither; this partition \
             waits, others go on. See the broker's log: if its file is damaged there, delete the topic's records up to the \
             next good offset (kafka-delete-records.sh), and what lay in them is named; else the link is too slow or the \
             right to read is missing"
        ),
        Step::Resumed => info!("P{partition:02}: goes on at offset {position}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(partition: i32, received: i64, in_hands: bool) -> PartitionView {
        PartitionView { partition, received, staged: 0, settled: 0, at_end: false, in_hands }
    }

    /// Looks every second from `from` to `to`; the answers of all questions, with their second.
    fn watch(
        standing: &mut Standing,
        start: Instant,
        (from, to): (u64, u64),
        views: &[PartitionView],
        high: i64,
    ) -> Vec<(u64, i32, Step)> {
        let mut said = Vec::new();
        for second in from..to {
            let now = start + Duration::from_secs(second);
            let (resumed, due) = standing.look(now, views, false, |_| false);
            said.extend(resumed.into_iter().map(|(partition, _)| (second, partition, Step::Resumed)));
            if due {
                let highs: Vec<(i32, i64)> = views.iter().map(|view| (view.partition, high)).collect();
                said.extend(standing.judge(now, &highs).into_iter().map(|(p, _, step)| (second, p, step)));
            }
        }
        said
    }

    #[test]
    fn first_another_client_then_a_person_then_a_person_again_now_and_then() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        let said = watch(&mut standing, start, (0, 1000), &[view(0, 6, false)], 14);
        assert_eq!(said, [(60, 0, Step::Renew), (120, 0, Step::Alarm), (720, 0, Step::Alarm)]);
        let said = watch(&mut standing, start, (1000, 1050), &[view(0, 7, false)], 14);
        assert_eq!(said, [(1000, 0, Step::Resumed)]);
        let said = watch(&mut standing, start, (1050, 1100), &[view(0, 7, false)], 14);
        assert_eq!(said, [(1060, 0, Step::Renew)], "another place is another matter");
    }

    #[test]
    fn the_end_of_a_partition_is_no_standing() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        assert_eq!(watch(&mut standing, start, (0, 1000), &[view(0, 14, false)], 14), []);
    }

    #[test]
    fn waiting_for_this_side_is_no_standing() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        let views = [view(0, 6, true), view(1, 6, false)];
        let said = watch(&mut standing, start, (0, 100), &views, 14);
        assert_eq!(said, [(60, 1, Step::Renew)], "each has a reader of its own");
        let mut standing = Standing::default();
        for second in 0..200 {
            let now = start + Duration::from_secs(second);
            assert_eq!(
                standing.look(now, &views, true, |_| false),
                (Vec::new(), false),
                "one reader for both"
            );
        }
        // A record that is in hands for a moment, now this one, now the next, is a reader that works.
        let mut standing = Standing::default();
        let due = (0..200).map(|second| {
            let now = start + Duration::from_secs(second);
            standing.look(now, &[view(0, 6 + second as i64, true), view(1, 6, false)], true, |_| false).1
        });
        assert!(due.into_iter().any(|due| due), "the other one stands all the same");
        let mut standing = Standing::default();
        for second in 0..200 {
            let now = start + Duration::from_secs(second);
            assert!(
                !standing.look(now, &views[1..], true, |partition| partition == 1).1,
                "a case of its own"
            );
        }
    }
}
