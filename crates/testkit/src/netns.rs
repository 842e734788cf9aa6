//! Hosts on one network, each a network namespace with one link to a bridge, and ways to spoil the links.
//!
//! Host `k` has the bridge and is 10.77.0.1; the others are 10.77.0.2 and so on. Everything is removed when this is dropped; what a
//! killed process left behind is removed by the next one. What must never happen here: traffic or a rule outside of these
//! namespaces.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, test_kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Beginning of the names of all namespaces of these tests; the process id follows.
const PREFIX: &str = "streamsend";
/// The host with the bridge.
pub const HUB: &str = "k";

/// See the module.
#[derive(Debug)]
pub struct Network {
    /// `streamsend-PID-NUMBER`, without the host.
    name: String,
    hosts: Vec<String>,
}

impl Network {
    /// The hub and these hosts (names of one or two letters), connected.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub fn build(hosts: &[&str]) -> Result<Network, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return Err("only root can make network namespaces".to_owned());
        }
        for (tool, ask) in [("ip", "-V"), ("tc", "-V"), ("nft", "-v"), ("ss", "-V")] {
            run(tool, &[ask]).map_err(|why| format!("{why}; install iproute2 and nftables"))?;
        }
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}", std::process::id());
        let all = [HUB].iter().chain(hosts).map(|&host| host.to_owned()).collect();
        let network = Network { name, hosts: all };
        // Dropped, and so removed, when a part of it fails.
        network.connect()?;
        Ok(network)
    }

    fn connect(&self) -> Result<(), String> {
        let hub = self.namespace(HUB);
        for host in &self.hosts {
            run("ip", &["netns", "add", &self.namespace(host)])?;
            run("ip", &["-n", &self.namespace(host), "link", "set", "lo", "up"])?;
        }
        run("ip", &["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        run("ip", &["-n", &hub, "addr", "add", "10.77.0.1/24", "dev", "br0"])?;
        run("ip", &["-n", &hub, "link", "set", "br0", "up"])?;
        for host in &self.hosts[1..] {
            let (space, outer, inner) = (self.namespace(host), format!("p{host}"), format!("v{host}"));
            let peer = ["peer", "name", &outer, "netns", &hub];
            run("ip", &[&["link", "add", &inner, "netns", &space, "type", "veth"][..], &peer].concat())?;
            run("ip", &["-n", &hub, "link", "set", &outer, "master", "br0", "up"])?;
            run("ip", &["-n", &space, "addr", "add", &format!("{}/24", self.address(host)), "dev", &inner])?;
            run("ip", &["-n", &space, "link", "set", &inner, "up"])?;
        }
        Ok(())
    }

    /// The namespace of a host, for `ip netns exec`.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// Where a host is found by the others.
    ///
    /// # Panics
    /// When there is no such host.
    pub fn address(&self, host: &str) -> IpAddr {
        let place = self.hosts.iter().position(|known| known == host).expect("a host of this network");
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, place as u8 + 1))
    }

    /// Does something in a host's network, on a thread of its own.
    ///
    /// # Panics
    /// When the namespace cannot be entered, or `work` panics.
    pub fn within<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.namespace(host));
        let enter = || {
            let namespace = File::open(&path).unwrap_or_else(|error| panic!("open {path}: {error}"));
            let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            entered.unwrap_or_else(|error| panic!("enter {path}: {error}"));
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(enter).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a command of the system in a host's network.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, host: &str, program: &str, args: &[&str]) {
        let space = self.namespace(host);
        let all = [&["netns", "exec", &space, program][..], args].concat();
        run("ip", &all).unwrap_or_else(|why| panic!("in host {host}: {why}"));
    }

    /// Pulls a host's cable out, or puts it in again.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn cable(&self, host: &str, is_in: bool) {
        let state = if is_in { "up" } else { "down" };
        self.run(HUB, "ip", &["link", "set", &format!("p{host}"), state]);
    }

    /// Lets only so many bits per second from a host to the hub and back.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn slow_down(&self, host: &str, bits_per_second: u32) {
        let rate = format!("{bits_per_second}bit");
        for (at, device) in [(host, format!("v{host}")), (HUB, format!("p{host}"))] {
            let shape = ["root", "tbf", "rate", &rate, "burst", "32kb", "latency", "400ms"];
            self.run(at, "tc", &[&["qdisc", "replace", "dev", &device][..], &shape].concat());
        }
    }

    /// Ends [`Network::slow_down`].
    ///
    /// # Panics
    /// When it was not slow.
    pub fn speed_up(&self, host: &str) {
        for (at, device) in [(host, format!("v{host}")), (HUB, format!("p{host}"))] {
            self.run(at, "tc", &["qdisc", "del", "dev", &device, "root"]);
        }
    }

    /// Rules of nft for what comes into the hub, such as `ip saddr 10.77.0.2 drop`, in place of those before.
    ///
    /// # Panics
    /// When one is not taken.
    pub fn filter(&self, rules: &[String]) {
        self.run(HUB, "nft", &["flush ruleset"]);
        if rules.is_empty() {
            return;
        }
        let chain = "add table ip t; add chain ip t i { type filter hook input priority 0; }";
        let rules: String = rules.iter().map(|rule| format!("; add rule ip t i {rule}")).collect();
        self.run(HUB, "nft", &[&format!("{chain}{rules}")]);
    }

    /// Ends all of a host's connections to the hub, at that host.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn kill_connections(&self, host: &str) {
        self.run(host, "ss", &["-K", "dst", "10.77.0.1"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            if let Err(why) = run("ip", &["netns", "del", &self.namespace(host)]) {
                eprintln!("{why}");
            }
        }
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim_end()))
}

/// Removes what processes that were killed left behind.
fn sweep() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        let owner = owner.and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        if owner.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH)) {
            // Somebody else may be sweeping, too.
            let _ = run("ip", &["netns", "del", name]);
        }
    }
}
