//! The leak census, tested by leaks: each kind of thing is left behind and must be named.

use anyhow::Result;
use berth_testkit::census::Census;
use berth_testkit::config::Config;
use berth_testkit::node::Node;

#[test]
fn every_kind_of_leak_is_named_and_a_clean_node_is_clean() -> Result<()> {
    let node = Node::prepare(Config::default())?;
    let before = Census::take(&node)?;
    before.same_again(&node)?;
    let cgroup = format!("{}/leaked-cgroup", node.parent().dir("pids").display());
    let kill = "kill $(ps -e -o pid,args | awk '$2 == \"sleep\" && $3 == 4242 {print $1}')";
    let leaks = [
        (
            "process",
            "sleep 4242",
            // Seen once it has come to its exec.
            "setsid sleep 4242 >/dev/null 2>&1 & until pgrep -f '^sleep 4242' >/dev/null; do :; done",
            kill,
        ),
        (
            "mount",
            "tmpfs",
            "mkdir /run/m && mount -t tmpfs t /run/m",
            "umount /run/m; rmdir /run/m",
        ),
        ("mount", "nsfs net:", "ip netns add leaked", "ip netns delete leaked"),
        ("link", "leaked0", "ip link add leaked0 type bridge", "ip link delete leaked0"),
        (
            "address",
            "198.19.7.7",
            "ip address add 198.19.7.7/32 dev lo",
            "ip address delete 198.19.7.7/32 dev lo",
        ),
        (
            "route",
            "198.19.8.0",
            "ip route add 198.19.8.0/24 dev cni0",
            "ip route delete 198.19.8.0/24",
        ),
        ("rule", "LEAKED", "iptables -t nat -N LEAKED", "iptables -t nat -X LEAKED"),
        ("cgroup", "leaked-cgroup", &format!("mkdir {cgroup}"), &format!("rmdir {cgroup}")),
        ("file", "/run/leaked", "touch /run/leaked", "rm /run/leaked"),
        (
            "file",
            "198.18.0.99",
            "touch /var/lib/cni/networks/testnet/198.18.0.99",
            "rm /var/lib/cni/networks/testnet/198.18.0.99",
        ),
    ];
    for (kind, name, make, mend) in leaks {
        node.run("sh", &["-c", make])?;
        let difference = before.difference(&Census::take(&node)?);
        let found = difference.more.iter().any(|one| one.starts_with(kind) && one.contains(name));
        assert!(found, "{kind} {name}: {difference:?}");
        node.run("sh", &["-c", mend])?;
        before.same_again(&node)?;
    }
    Ok(())
}
