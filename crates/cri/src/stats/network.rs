//! Interface counters of network namespaces.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

/// What a thread that only reads small files needs.
const STACK: usize = 128 << 10;

/// Counters of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received: Traffic,
    pub(crate) sent: Traffic,
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// A pod's network namespace, and the processes that should be in it.
pub(crate) struct Place {
    /// Our pin of it.
    pub(crate) path: PathBuf,
    /// First processes of the pod's containers.
    pub(crate) pids: Vec<u32>,
}

/// Reads the counters in each namespace; none where there is none, or it is gone.
///
/// Through a process in it, where one is: to enter a namespace costs a millisecond. For the others a
/// thread of its own goes from one to the next and ends there: no thread that does other work ever
/// leaves the node's namespace. The paths are our own pins, and nothing in it waits.
pub(crate) fn read(places: Vec<Option<Place>>) -> Vec<Option<Vec<Interface>>> {
    let mut read: Vec<_> = places.iter().map(|place| through_process(place.as_ref()?)).collect();
    let left: Vec<_> = (0..read.len()).filter(|at| read[*at].is_none()).collect();
    let path = |at: &usize| places[*at].as_ref().map(|place| place.path.clone());
    for (at, visited) in left.iter().zip(visit_all(left.iter().map(path).collect())) {
        read[*at] = visited;
    }
    read
}

fn through_process(place: &Place) -> Option<Vec<Interface>> {
    let pin = rustix::fs::stat(&place.path).ok()?;
    let within = |pid: &&u32| {
        let own = rustix::fs::stat(format!("/proc/{pid}/ns/net"));
        own.is_ok_and(|own| (own.st_dev, own.st_ino) == (pin.st_dev, pin.st_ino))
    };
    let pid = place.pids.iter().find(within)?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    // It may have ended, and its number may be another's by now.
    within(&pid).then(|| parse(&text))
}

fn visit_all(namespaces: Vec<Option<PathBuf>>) -> Vec<Option<Vec<Interface>>> {
    let count = namespaces.len();
    if namespaces.iter().all(Option::is_none) {
        return vec![None; count];
    }
    let visit = move || namespaces.iter().map(|path| visit(path.as_deref()?)).collect();
    let thread = std::thread::Builder::new().name("netns".to_owned()).stack_size(STACK);
    let visited = thread.spawn(visit).map(std::thread::JoinHandle::join);
    match visited {
        Ok(Ok(counters)) => counters,
        _ => vec![None; count],
    }
}

fn visit(path: &Path) -> Option<Vec<Interface>> {
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let network = Some(LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), network)
        .ok()?;
    Some(parse(&std::fs::read_to_string("/proc/thread-self/net/dev").ok()?))
}

/// Parses /proc/net/dev: two lines of headings, then `name:` and 16 numbers, 8 for each direction.
fn parse(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let direction = |at: usize| match *numbers.get(at..at + 4)? {
            [bytes, packets, errors, dropped] => Some(Traffic { bytes, packets, errors, dropped }),
            _ => None,
        };
        let name = name.trim().to_owned();
        Some(Interface { name, received: direction(0)?, sent: direction(8)? })
    };
    text.lines().skip(2).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read_by_its_columns() {
        let text = "Inter-|   Receive                            |  Transmit\n face |bytes packets\n    \
            lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  eth0:1500 10 7 2 0 0 0 0 900 8 5 1 0 0 0 0\n";
        let interfaces = parse(text);
        assert_eq!(interfaces.len(), 2);
        let eth0 = &interfaces[1];
        assert_eq!(eth0.name, "eth0");
        let received = Traffic { bytes: 1500, packets: 10, errors: 7, dropped: 2 };
        let sent = Traffic { bytes: 900, packets: 8, errors: 5, dropped: 1 };
        assert_eq!((eth0.received, eth0.sent), (received, sent));
    }

    #[test]
    fn a_namespace_that_is_gone_has_no_counters_and_spoils_no_others() {
        let own = PathBuf::from("/proc/self/ns/net");
        let place = |path: &str, pids: &[u32]| Some(Place { path: path.into(), pids: pids.into() });
        let me = std::process::id();
        let read = read(vec![
            place("/run/netns/no-such", &[me]),
            None,
            place(own.to_str().unwrap(), &[u32::MAX, me]),
            place(own.to_str().unwrap(), &[]),
        ]);
        assert_eq!(read.len(), 4);
        assert_eq!((&read[0], &read[1]), (&None, &None));
        let has_lo = |read: &Option<Vec<Interface>>| {
            read.as_ref().unwrap().iter().any(|interface| interface.name == "lo")
        };
        assert!(has_lo(&read[2]), "through a process");
        // Entering a namespace, even one's own, takes a privilege.
        if rustix::process::geteuid().is_root() {
            assert!(has_lo(&read[3]), "by going there");
        }
    }
}
