//! CRI's signals ↔ Linux's numbers.

use berth_proto::cri::v1::Signal;

use super::{Refusal, check};

/// glibc's SIGRTMIN: the two below it are its own.
const RTMIN: i32 = 34;
/// The last real-time signal.
const RTMAX: i32 = 64;

const NUMBERS: [(Signal, i32); 35] = [
    (Signal::Sigabrt, 6),
    (Signal::Sigalrm, 14),
    (Signal::Sigbus, 7),
    (Signal::Sigchld, 17),
    (Signal::Sigcont, 18),
    (Signal::Sigfpe, 8),
    (Signal::Sighup, 1),
    (Signal::Sigill, 4),
    (Signal::Sigint, 2),
    (Signal::Sigio, 29),
    (Signal::Sigkill, 9),
    (Signal::Sigpipe, 13),
    (Signal::Sigprof, 27),
    (Signal::Sigpwr, 30),
    (Signal::Sigquit, 3),
    (Signal::Sigsegv, 11),
    (Signal::Sigstkflt, 16),
    (Signal::Sigstop, 19),
    (Signal::Sigsys, 31),
    (Signal::Sigterm, 15),
    (Signal::Sigtrap, 5),
    (Signal::Sigtstp, 20),
    (Signal::Sigttin, 21),
    (Signal::Sigttou, 22),
    (Signal::Sigurg, 23),
    (Signal::Sigusr1, 10),
    (Signal::Sigusr2, 12),
    (Signal::Sigvtalrm, 26),
    (Signal::Sigwinch, 28),
    (Signal::Sigxcpu, 24),
    (Signal::Sigxfsz, 25),
    // Second names of numbers above: they are only ever read.
    (Signal::Sigcld, 17),
    (Signal::Sigiot, 6),
    (Signal::Sigpoll, 29),
    (Signal::Sigrtmin, RTMIN),
];

/// The number that a CRI value stands for; none for RUNTIME_DEFAULT.
pub(super) fn admit(field: &str, given: i32) -> Result<Option<i32>, Refusal> {
    let signal: Signal = check::known(field, given)?;
    if signal == Signal::RuntimeDefault {
        return Ok(None);
    }
    if let Some((_, number)) = NUMBERS.iter().find(|(known, _)| *known == signal) {
        return Ok(Some(*number));
    }
    // The real-time ones stand in the order of their numbers.
    Ok(Some(RTMIN + signal as i32 - Signal::Sigrtmin as i32))
}

/// The CRI value of a number; RUNTIME_DEFAULT for one that has none.
pub(crate) fn to_cri(number: i32) -> Signal {
    if (RTMIN..=RTMAX).contains(&number) {
        let value = Signal::Sigrtmin as i32 + number - RTMIN;
        return Signal::try_from(value).unwrap_or(Signal::RuntimeDefault);
    }
    let found = NUMBERS.iter().find(|(_, known)| *known == number);
    found.map_or(Signal::RuntimeDefault, |(signal, _)| *signal)
}

/// The number of a signal as an image's configuration writes it: `SIGQUIT`, `QUIT`, `3`,
/// `SIGRTMIN+3`.
pub(crate) fn from_image(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |rest: &str, from: i32, sign: i32| {
        let offset = if rest.is_empty() { 0 } else { rest.get(1..)?.parse::<i32>().ok()? };
        let number = from + sign * offset;
        (RTMIN..=RTMAX).contains(&number).then_some(number)
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return real_time(rest, RTMIN, 1);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return real_time(rest, RTMAX, -1);
    }
    let signal = Signal::from_str_name(&format!("SIG{name}"))?;
    NUMBERS.iter().find(|(known, _)| *known == signal).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cri_signal_has_a_number_and_comes_back() {
        for value in 1..=65 {
            let signal = Signal::try_from(value).unwrap();
            let number = admit("stop_signal", value).unwrap().unwrap();
            assert!((1..=64).contains(&number), "{signal:?} {number}");
            let back = to_cri(number);
            let second_name = matches!(signal, Signal::Sigcld | Signal::Sigiot | Signal::Sigpoll);
            assert!(back == signal || second_name, "{signal:?} became {back:?}");
        }
        assert_eq!(admit("stop_signal", Signal::Sigrtmin as i32).unwrap(), Some(34));
        assert_eq!(admit("stop_signal", Signal::Sigrtmaxminus14 as i32).unwrap(), Some(50));
        assert_eq!(admit("stop_signal", Signal::Sigrtmax as i32).unwrap(), Some(64));
        assert_eq!(admit("stop_signal", 0).unwrap(), None);
        assert!(admit("stop_signal", 66).is_err());
    }

    #[test]
    fn an_images_signal_is_read_in_each_of_its_spellings() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("3", Some(3)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-2", Some(62)),
            ("SIGRTMIN", Some(34)),
            ("", None),
            ("0", None),
            ("65", None),
            ("SIGNOTHING", None),
            ("SIGRTMIN+99", None),
        ] {
            assert_eq!(from_image(text), number, "{text}");
        }
    }
}
