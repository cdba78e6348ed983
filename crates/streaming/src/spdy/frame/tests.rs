use proptest::prelude::*;

use super::*;

fn some(pairs: &[(&str, &str)]) -> Headers {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Headers(pairs.iter().map(own).collect())
}

/// Reads one whole control frame.
fn read(bytes: &[u8], inflater: &mut Inflater) -> Result<Control, FrameError> {
    let (head, payload) = bytes.split_first_chunk().unwrap();
    match Head::parse(*head)? {
        Head::Control { kind, flags, length } => {
            assert_eq!(length, payload.len());
            Control::parse(kind, flags, payload, inflater)
        }
        Head::Data { .. } => panic!("a data frame"),
    }
}

fn parse(kind: u16, payload: &[u8]) -> Result<Control, FrameError> {
    Control::parse(kind, 0, payload, &mut Inflater::new())
}

#[test]
fn frames_come_back_as_they_were() {
    let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
    let headers = some(&[("streamtype", "stdin"), ("port", "80")]);
    for control in [
        Control::SynStream {
            stream: 1,
            fin: false,
            unidirectional: false,
            headers: headers.clone(),
        },
        Control::SynStream { stream: 3, fin: true, unidirectional: true, headers: headers.clone() },
        Control::SynReply { stream: 1, fin: false, headers: some(&[]) },
        Control::Headers { stream: LARGEST_WINDOW, fin: true, headers },
        Control::RstStream { stream: 1, status: 5 },
        Control::Settings { initial_window: None },
        Control::Settings { initial_window: Some(1 << 20) },
        Control::Ping(0xffff_ffff),
        Control::GoAway { last: 7, status: 1 },
        Control::WindowUpdate { stream: 0, delta: 1 },
        Control::WindowUpdate { stream: 5, delta: LARGEST_WINDOW },
    ] {
        let mut bytes = Vec::new();
        control.append(&mut deflater, &mut bytes);
        assert_eq!(read(&bytes, &mut inflater), Ok(control));
    }
}

#[test]
fn a_data_frame_is_its_head_and_its_bytes() {
    let mut bytes = Vec::new();
    append_data(5, true, b"abc", &mut bytes);
    assert_eq!(bytes, b"\0\0\0\x05\x01\0\0\x03abc");
    let head = *bytes.first_chunk().unwrap();
    assert_eq!(Head::parse(head), Ok(Head::Data { stream: 5, fin: true, length: 3 }));
}

#[test]
fn heads_that_are_wrong() {
    let head = |bytes: &[u8; 8]| Head::parse(*bytes).unwrap_err();
    assert_eq!(head(b"\0\0\0\0\0\0\0\0"), FrameError::NoStream("data"));
    assert_eq!(head(b"\x80\x02\0\x01\0\0\0\0"), FrameError::Version(2));
    assert_eq!(head(b"\x80\x03\0\x01\0\xff\xff\xff"), FrameError::Large(0xff_ffff));
}

#[test]
fn frames_of_a_wrong_length() {
    for kind in [3, 7, 9] {
        for length in [0, 4, 7, 9, 12] {
            assert!(
                matches!(parse(kind, &vec![1; length]), Err(FrameError::Length(_, wrong)) if wrong == length)
            );
        }
    }
    for length in [0, 3, 5, 8] {
        assert_eq!(parse(6, &vec![1; length]), Err(FrameError::Length("PING", length)));
    }
    for length in [0, 3, 9] {
        assert_eq!(parse(1, &vec![1; length]), Err(FrameError::Length("SYN_STREAM", length)));
    }
    assert_eq!(parse(2, &[1; 3]), Err(FrameError::Length("SYN_REPLY", 3)));
    assert_eq!(parse(8, &[1; 3]), Err(FrameError::Length("HEADERS", 3)));
    for wrong in [&[0; 3][..], &[0, 0, 0, 1], &[0; 5], &[0xff; 12], &[0xff; 4]] {
        assert_eq!(parse(4, wrong), Err(FrameError::Length("SETTINGS", wrong.len())));
    }
}

#[test]
fn frames_that_say_what_they_cannot() {
    assert_eq!(parse(3, &pair(0, 1)), Err(FrameError::NoStream("RST_STREAM")));
    assert_eq!(parse(3, &pair(1, 0)), Err(FrameError::Value("RST_STREAM", 0)));
    assert_eq!(parse(9, &pair(1, 0)), Err(FrameError::Value("WINDOW_UPDATE", 0)));
    let window = [&[0, 0, 0, 1], pair(7, 1 << 31).as_slice()].concat();
    assert_eq!(parse(4, &window), Err(FrameError::Value("SETTINGS", 1 << 31)));
    assert_eq!(parse(2, &[1; 20]), Err(FrameError::Headers("SYN_REPLY", HeadersError::Zlib)));
    let mut unnamed = Vec::new();
    Control::SynReply { stream: 0, fin: false, headers: some(&[]) }
        .append(&mut Deflater::new(), &mut unnamed);
    assert_eq!(read(&unnamed, &mut Inflater::new()), Err(FrameError::NoStream("SYN_REPLY")));
}

#[test]
fn what_nobody_knows_is_ignored() {
    assert_eq!(parse(10, &[1; 20]), Ok(Control::Other));
    assert_eq!(parse(0xffff, &[]), Ok(Control::Other));
    let other = [&[0, 0, 0, 1], pair(4, u32::MAX).as_slice()].concat();
    assert_eq!(parse(4, &other), Ok(Control::Settings { initial_window: None }));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(head: [u8; HEAD], kind in 0..12_u16, payload: Vec<u8>) {
        let _either = Head::parse(head);
        let _either = Control::parse(kind, head[4], &payload, &mut Inflater::new());
    }

    #[test]
    fn damaged_frames_are_read_or_refused(at in 8..60_usize, bit in 0..8_u8, value in "[a-z]{0,40}") {
        let mut bytes = Vec::new();
        let headers = some(&[("streamtype", value.as_str()), ("port", "8080")]);
        let whole = Control::SynStream { stream: 1, fin: false, unidirectional: false, headers };
        whole.append(&mut Deflater::new(), &mut bytes);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
        let _either = read(&bytes, &mut Inflater::new());
    }

    #[test]
    fn headers_of_any_size_come_back(pairs in proptest::collection::btree_map("[a-z-]{1,20}", ".{0,200}", 0..20)) {
        let headers = Headers(pairs.into_iter().collect());
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        for _ in 0..2 {
            let mut bytes = Vec::new();
            let whole = Control::SynReply { stream: 1, fin: false, headers: headers.clone() };
            whole.append(&mut deflater, &mut bytes);
            prop_assert_eq!(read(&bytes, &mut inflater), Ok(whole));
        }
    }
}
