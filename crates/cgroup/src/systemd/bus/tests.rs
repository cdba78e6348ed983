use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use berth_sys::Kind;

use super::wire::SIGNAL;
use super::*;

const ANSWER: u8 = 2;
/// Far more than an answer on the same machine takes.
const LONG: Duration = Duration::from_secs(20);
/// Shorter than what never comes.
const SHORT: Duration = Duration::from_millis(200);
const START: Attempt<'_> = Attempt { verb: "start", unit: "a.slice" };
const SYSTEMD: &str = ":1.1";

/// A stand-in for the bus: it lets one in, and goes on as the test says.
struct Bus {
    directory: tempfile::TempDir,
    served: JoinHandle<()>,
}

impl Bus {
    fn new(serve: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("bus")).unwrap();
        let served = std::thread::spawn(move || serve(listener.accept().unwrap().0));
        Self { directory, served }
    }

    fn open(&self, limit: Duration) -> Result<Connection> {
        Connection::over(&self.directory.path().join("bus"), limit)
    }
}

fn let_in(stream: &UnixStream) -> BufReader<UnixStream> {
    let mut from = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    assert!(line.starts_with("\0AUTH EXTERNAL "), "{line:?}");
    (&mut &*stream).write_all(b"OK 0123\r\n").unwrap();
    line.clear();
    from.read_line(&mut line).unwrap();
    assert_eq!(line, "BEGIN\r\n");
    from
}

/// Takes the next call; its serial, and the name of its method.
fn call(from: &mut BufReader<UnixStream>) -> (u32, String) {
    let mut fixed = [0; FIXED];
    from.read_exact(&mut fixed).unwrap();
    let mut bytes = fixed.to_vec();
    bytes.resize(FIXED + wire::rest(&fixed).unwrap(), 0);
    from.read_exact(&mut bytes[FIXED..]).unwrap();
    let serial = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    (serial, wire::parse(&bytes).unwrap().member)
}

fn message(kind: u8, sender: &str) -> Message {
    Message { kind, sender: sender.into(), ..Message::default() }
}

fn send(mut to: &UnixStream, message: Message, body: &[&str]) {
    let mut out = Writer::default();
    let texts = if message.kind == SIGNAL {
        out.flag(false);
        format!("uo{}", "s".repeat(body.len() - 1))
    } else {
        "s".repeat(body.len())
    };
    body.iter().for_each(|text| out.text(text));
    let message = Message { signature: texts, ..message };
    to.write_all(&wire::whole(&message, &out)).unwrap();
}

/// Answers calls until the one of this method, and gives that one's serial.
fn until(stream: &UnixStream, from: &mut BufReader<UnixStream>, method: &str) -> u32 {
    loop {
        let (serial, called) = call(from);
        if called == method {
            return serial;
        }
        send(stream, Message { answers: serial, ..message(ANSWER, SYSTEMD) }, &[]);
    }
}

#[test]
fn what_a_stranger_signals_of_a_job_is_not_believed() {
    let bus = Bus::new(|stream| {
        let mut from = let_in(&stream);
        let serial = until(&stream, &mut from, "StartTransientUnit");
        let of_a_job = |sender| Message { member: "JobRemoved".into(), ..message(SIGNAL, sender) };
        for result in ["done", "failed"] {
            send(&stream, of_a_job(":1.666"), &["/job/7", "a.slice", result]);
        }
        send(&stream, Message { answers: serial, ..message(ANSWER, SYSTEMD) }, &["/job/7"]);
        send(&stream, of_a_job(":1.666"), &["/job/7", "a.slice", "done"]);
        send(&stream, of_a_job(SYSTEMD), &["/job/8", "b.slice", "done"]);
        send(&stream, of_a_job(SYSTEMD), &["/job/7", "a.slice", "timeout"]);
    });
    let mut connection = bus.open(LONG).unwrap();
    let start = Call { method: "StartTransientUnit", signature: "s", ..MANAGER };
    let mut body = Writer::default();
    body.text("a.slice");
    let why = connection.job(&START, &start, &body).unwrap_err();
    assert!(matches!(&why, Error::Unit { name, .. } if name == "job timeout"), "{why}");
    bus.served.join().unwrap();
}

#[test]
fn a_bus_that_drips_is_given_up_in_time() {
    let bus = Bus::new(|mut stream| {
        // Each byte comes well before any time is up, until nobody wants more.
        while stream.write_all(b"O").is_ok() {
            std::thread::sleep(SHORT / 10);
        }
    });
    let why = bus.open(SHORT).err().unwrap();
    assert_eq!(why.kind(), Kind::TimedOut, "{why}");
    bus.served.join().unwrap();
}

#[test]
fn a_bus_that_says_nothing_is_given_up_in_time() {
    let bus = Bus::new(|mut stream| {
        let _from = let_in(&stream);
        // Until the other side is gone.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    assert_eq!(bus.open(SHORT).err().unwrap().kind(), Kind::TimedOut);
    bus.served.join().unwrap();
}

#[test]
fn a_bus_that_lets_nobody_in_is_given_up_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    // It has room for one that nobody accepts.
    let _first = UnixStream::connect(&path).unwrap();
    let why = Connection::over(&path, SHORT).err().unwrap();
    assert_eq!(why.kind(), Kind::TimedOut, "{why}");
}

#[test]
fn nonsense_and_an_end_are_told() {
    for (bytes, kind) in [
        (&b"XXXXXXXXXXXXXXXX"[..], io::ErrorKind::InvalidData),
        (&b"l\x02\0\x01\xff\xff\0\0\0\0\0\0\0\0\0\0"[..], io::ErrorKind::UnexpectedEof),
        (b"", io::ErrorKind::UnexpectedEof),
    ] {
        let bus = Bus::new(move |mut stream| {
            let mut from = let_in(&stream);
            call(&mut from);
            stream.write_all(bytes).unwrap();
        });
        let why = bus.open(LONG).err().unwrap();
        assert!(matches!(&why, Error::Bus { source, .. } if source.kind() == kind), "{why}");
        bus.served.join().unwrap();
    }
    let bus = Bus::new(|mut stream| stream.write_all(&[b'x'; 2 * LINE as usize]).unwrap());
    let why = bus.open(LONG).err().unwrap().to_string();
    assert!(why.contains("it does not let us in"), "{why}");
    let _ = bus.served.join();
}
