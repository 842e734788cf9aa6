//! Three real brokers that replicate each other: one can be missing.
//!
//! What must never happen here: a topic with fewer replicas than brokers, unless a single node is asked for it.

use super::{Broker, Member, create_topic};
use crate::loopback::own_address;

/// Nodes, each broker and controller, and so replicas of everything.
pub const NODES: u32 = 3;

/// Three nodes on addresses of their own, which they keep.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, to be killed, frozen, stopped and started again one by one.
    pub nodes: Vec<Broker>,
}

impl Cluster {
    /// Starts them; records count as written when two of three have them.
    ///
    /// # Panics
    /// When they do not come up.
    pub fn start() -> Cluster {
        let ports: Vec<(u16, u16)> =
            (0..NODES).map(|_| (own_address().port(), own_address().port())).collect();
        let host = own_address().ip();
        let voters: Vec<String> = (1..)
            .zip(&ports)
            .map(|(number, (_, controller))| format!("{number}@{host}:{controller}"))
            .collect();
        let voters = voters.join(",");
        let node = |(number, ports): (u32, &(u16, u16))| {
            let mut builder = Broker::builder()
                .heap("160m")
                .property("default.replication.factor", "3")
                .property("min.insync.replicas", "2")
                // Leaders come back to a node that came back: each fault hits some.
                .property("leader.imbalance.check.interval.seconds", "2")
                .property("leader.imbalance.per.broker.percentage", "0");
            builder.host = host;
            builder.member = Some(Member { number, ports: *ports, voters: voters.clone() });
            builder.prepare()
        };
        let mut cluster = Cluster { nodes: (1..).zip(&ports).map(node).collect() };
        cluster.start_missing();
        cluster
    }

    /// Starts all nodes that were killed or stopped, lets frozen ones go on, and waits until all answer.
    ///
    /// # Panics
    /// When one does not come up.
    pub fn start_missing(&mut self) {
        for node in &mut self.nodes {
            node.thaw();
            if node.pid().is_none() {
                node.launch();
            }
        }
        self.nodes.iter_mut().for_each(Broker::await_ready);
    }

    /// The addresses of all nodes.
    pub fn bootstrap(&self) -> String {
        self.nodes.iter().map(Broker::bootstrap).collect::<Vec<_>>().join(",")
    }

    /// Creates a topic with three replicas of each partition.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn create_topic(&self, topic: &str, partitions: i32, config: &[(&str, &str)]) {
        create_topic(&self.bootstrap(), topic, (partitions, NODES as i32), config);
    }
}
