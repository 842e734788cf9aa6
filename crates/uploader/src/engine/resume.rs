//! The ledger's unfinished transfers, taken up again at start.
//!
//! What must never happen here: a sequence number of the ledger left open, or a prefix believed whose digest tree does
//! not cover exactly it.

use super::files::File;
use super::{Engine, Order};
use crate::records::{Found, FoundState, Row};
use crate::scheduler::{Event, Kept, Plan, Resume};
use daemon::Stop;
use protocol::{DigestTree, Name, Subtree};

impl Engine {
    /// Takes them up. Call it once, before anything else.
    pub(super) fn resume(&mut self, found: Vec<Found>) -> Result<(), Stop> {
        let count = found.iter().filter(|found| found.state != FoundState::Done).count();
        if count > 0 {
            tracing::info!("taking up {count} unfinished transfer(s) of an earlier run");
        }
        for Found { row, state } in found {
            self.resume_one(row, state)?;
        }
        self.act()
    }

    fn resume_one(&mut self, row: Row, state: FoundState) -> Result<(), Stop> {
        let spool = self.spools.iter().position(|spool| spool.name.as_str() == row.spool);
        let kept = match state {
            FoundState::Done => return self.resume_retirement(&row, spool),
            FoundState::Ending(digest) => Kept::Ending(digest),
            FoundState::Aborting => Kept::Aborting,
            FoundState::Intent { prefix, subtrees } => {
                let (prefix, tree) = prefix_of(&row.plan, row.identity.size, prefix, &subtrees);
                Kept::Intent { prefix, tree }
            }
        };
        let spool_name = Name::new(&row.spool)
            .map_err(|_| Stop::new(daemon::Exit::Io, format!("ledger: bad spool name {:?}", row.spool)))?;
        // Ledgers of early releases do not say it.
        let uploader = Name::new(&row.uploader).unwrap_or_else(|_| self.sender.name.clone());
        let same_topic = row.topic == self.settings.common.topic
            && row.topic_id.as_ref().zip(self.topic.topic_id.as_ref()).is_none_or(|(then, now)| then == now);
        let digest = if let Kept::Ending(digest) = kept { Some(digest) } else { None };
        let file = File {
            spool,
            uploader,
            spool_name,
            path: row.path,
            identity: row.identity,
            before_restart: true,
            mode: row.mode,
            open: None,
            record: None,
            digest,
            asked: None,
            successor: None,
            started_ms: row.started_ms,
        };
        let overhead_bytes = file.overhead_bytes();
        let key = self.files.insert(file);
        let resume = Resume {
            key,
            id: row.id,
            attempt: row.attempt,
            plan: row.plan,
            size: row.identity.size,
            overhead_bytes,
            same_topic,
            readable: spool.is_some(),
            kept,
        };
        self.scheduler.apply(self.now(), Event::Resumed(Box::new(resume)));
        Ok(())
    }

    /// All of it is in Kafka; only the file was not put away.
    fn resume_retirement(&mut self, row: &Row, spool: Option<usize>) -> Result<(), Stop> {
        let place = spool.and_then(|spool| self.spools.get(spool)).map(|spool| crate::reader::Place {
            spool: std::sync::Arc::clone(&spool.dir),
            path: row.path.clone(),
        });
        match place {
            Some(place) => self.order(Order { key: None, id: row.id, place, identity: row.identity }),
            None => {
                let change = crate::records::Change::Retired { id: row.id, left: false };
                self.write(crate::records::Request { change, report: None })
            }
        }
    }
}

/// The acknowledged prefix with its digest tree; the file's beginning if the two do not fit together.
pub fn prefix_of(plan: &Plan, size: u64, prefix: u64, subtrees: &[Subtree]) -> (u64, DigestTree) {
    let covered: u64 = subtrees.iter().fold(0, |sum: u64, subtree| sum.saturating_add(subtree.len));
    let fits = prefix <= plan.cut(size).count() && covered == plan.cut(size).offset(prefix);
    match DigestTree::restore(size, subtrees) {
        Ok(tree) if fits => (prefix, tree),
        _ => (0, DigestTree::new(size)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_prefix_is_believed_only_with_the_tree_over_exactly_it() {
        let plan = Plan { chunk_size: 1024, first: 0, partitions: 1 };
        let bytes = vec![5; 4096];
        let kept = protocol::subtrees(0, &bytes[..2048], false);
        assert_eq!(prefix_of(&plan, 4096, 2, &kept).0, 2);
        assert_eq!(prefix_of(&plan, 4096, 3, &kept).0, 0);
        assert_eq!(prefix_of(&plan, 4096, 9, &kept).0, 0);
        let doubled = [kept.clone(), kept].concat();
        assert_eq!(prefix_of(&plan, 4096, 4, &doubled).0, 0);
        let (prefix, mut tree) = prefix_of(&plan, 4096, 2, &protocol::subtrees(0, &bytes[..2048], false));
        assert_eq!(prefix, 2);
        protocol::subtrees(2048, &bytes[2048..], true)
            .into_iter()
            .for_each(|subtree| tree.insert(subtree).unwrap());
        assert_eq!(tree.root(), Some(protocol::whole_digest(&bytes)));
    }
}
