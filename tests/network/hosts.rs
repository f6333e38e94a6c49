//! Hosts: network namespaces on one bridge, each with an address of its own; and what is done to the
//! lines between them.
//!
//! The bridge is in a namespace itself, the *hub*, where also the clients are. Nothing of the
//! machine's own network is touched, so that the addresses need not be free there.
//!
//! ```text
//!   server 10.77.0.1   node 10.77.0.11   node 10.77.0.12 ...
//!        │ eth0             │ eth0            │ eth0
//!   ─────┴──────────────────┴─────────────────┴───── bridge, in the hub: 10.77.0.254
//! ```
//!
//! A network may have a [`Proxy`] between all hosts. Then these addresses are the hub's, all of them;
//! the hosts themselves have hidden ones, 10.77.1.N, and a route to the others by way of the hub. A
//! process listens at its hidden address and advertises the other one, as behind a real gateway.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::proxy::{Line, PORT, Proxy};

/// What the names of all namespaces begin with; the number of the process that made them follows.
const PREFIX: &str = "quorate-test";

/// Where the clients are.
pub(crate) const HUB: Host = Host(254);

/// How hidden addresses begin.
pub(crate) const HIDDEN: [u8; 3] = [10, 77, 1];

/// A host, by the last part of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host(pub(crate) u8);

impl Host {
    pub(crate) fn ip(self) -> String {
        format!("10.77.0.{}", self.0)
    }

    /// Where others find the process there.
    pub(crate) fn address(self) -> String {
        format!("{}:{PORT}", self.ip())
    }

    /// Where a process listens that is behind the proxy.
    pub(crate) fn hidden_ip(self) -> Ipv4Addr {
        let [a, b, c] = HIDDEN;
        Ipv4Addr::new(a, b, c, self.0)
    }

    fn namespace(self) -> String {
        format!("{PREFIX}-{}-{}", std::process::id(), self.0)
    }

    /// The beginning of a command that runs there.
    pub(crate) fn command(self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(), program]);
        command
    }
}

/// The network of one cluster. Everything in it ends with it.
#[derive(Debug)]
pub(crate) struct Network {
    hosts: Vec<Host>,
    proxy: Option<Proxy>,
}

/// What is between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    Nothing,
    Proxy,
}

impl Network {
    /// A network of these hosts. The calling thread, and whatever it starts, is in the hub from now
    /// on.
    pub(crate) fn enter(hosts: &[Host], between: Between) -> Result<Self, String> {
        // Made first, so that half a network is taken down as well.
        let mut network = Self { hosts: [&[HUB], hosts].concat(), proxy: None };
        for host in &network.hosts {
            ip(&["netns", "add", &host.namespace()])?;
            host.ip_do("link set lo up")?;
        }
        let own_ip = |host: Host| match between {
            Between::Nothing => host.ip(),
            Between::Proxy => host.hidden_ip().to_string(),
        };
        HUB.ip_do("link add bridge type bridge")?;
        HUB.ip_do(&format!("addr add {}/24 dev bridge", own_ip(HUB)))?;
        HUB.ip_do("link set bridge up")?;
        for host in hosts {
            let (port, there) = (format!("port{}", host.0), host.namespace());
            HUB.ip_do(&format!("link add {port} type veth peer name eth0 netns {there}"))?;
            HUB.ip_do(&format!("link set {port} master bridge up"))?;
            host.ip_do(&format!("addr add {}/24 dev eth0", own_ip(*host)))?;
            host.ip_do("link set eth0 up")?;
        }
        let file = File::open(format!("/run/netns/{}", HUB.namespace()));
        let file = file.map_err(|error| error.to_string())?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| error.to_string())?;
        if between == Between::Proxy {
            let all = Host(0).ip();
            HUB.ip_do(&format!("route add local {all}/24 dev lo"))?;
            for host in hosts {
                host.ip_do(&format!("route add {all}/24 via {}", own_ip(HUB)))?;
            }
            network.proxy = Some(Proxy::start().map_err(|error| error.to_string())?);
        }
        Ok(network)
    }

    /// Where a process on that host listens.
    pub(crate) fn listens(&self, host: Host) -> String {
        match self.proxy {
            Some(_) => format!("{}:{PORT}", host.hidden_ip()),
            None => host.address(),
        }
    }

    /// Whether there is one.
    pub(crate) fn has_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    /// The proxy of a network that was made with one.
    pub(crate) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the scenario is one with a proxy")
    }

    /// Nothing that `from` sends arrives at `to` any more.
    pub(crate) fn cut(&self, from: Host, to: Host) {
        match &self.proxy {
            Some(proxy) => proxy.set(from, to, Line { is_dead: true, ..Line::default() }),
            None => from.ip_do(&format!("route replace blackhole {}/32", to.ip())).unwrap(),
        }
    }

    /// Neither arrives at the other.
    pub(crate) fn cut_both(&self, one: Host, other: Host) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// What `host` sends leaves it at this rate, in the words of tc; an error where the machine cannot.
    pub(crate) fn limit(&self, host: Host, rate: &str) -> Result<(), String> {
        let shape = ["root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms"];
        let there = ["-n", &host.namespace(), "qdisc", "replace", "dev", "eth0"].map(str::to_owned);
        let args: Vec<&str> = there.iter().map(String::as_str).chain(shape).collect();
        run("tc", &args)
    }

    /// All lines are whole and fast again.
    pub(crate) fn heal(&self) {
        self.proxy.iter().for_each(Proxy::heal);
        for host in &self.hosts {
            host.ip_do("route flush type blackhole").unwrap();
            // There is none where there was no limit.
            let _ = run("tc", &["-n", &host.namespace(), "qdisc", "del", "dev", "eth0", "root"]);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            remove(&host.namespace());
        }
    }
}

impl Host {
    /// `ip` there, with the words of `what` as arguments.
    fn ip_do(self, what: &str) -> Result<(), String> {
        let namespace = self.namespace();
        let args: Vec<&str> = ["-n", &namespace].into_iter().chain(what.split(' ')).collect();
        ip(&args)
    }
}

/// Takes down what a run that was killed has left behind.
pub(crate) fn sweep() {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1)) else {
            continue;
        };
        if !std::path::Path::new("/proc").join(pid).exists() {
            remove(&name);
        }
    }
}

/// Ends whatever still runs in a namespace, and the namespace.
fn remove(namespace: &str) {
    let output = Command::new("ip").args(["netns", "pids", namespace]).output();
    let pids = output.map(|output| output.stdout).unwrap_or_default();
    for pid in String::from_utf8_lossy(&pids).split_whitespace() {
        let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    // There may be none, where it was being made.
    let _ = ip(&["netns", "del", namespace]);
}

fn ip(args: &[&str]) -> Result<(), String> {
    run("ip", args)
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let told = format!("{program} {}", args.join(" "));
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{told}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{told}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
