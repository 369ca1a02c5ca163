//! What must hold of any bytes at all. Each function is a fuzz target; a panic is
//! a defect.

use holdfast_proto::envelope;
use holdfast_proto::names::SystemId;
use holdfast_proto::pg::{
    BackupLabel, ControlFile, Lsn, PageHeader, SegmentName, SegmentSize, StandbyStatus, StreamMessage,
    TimelineHistory, TimelineId, WalEvent, WalReader, validate_segment_header,
};

/// A target's name, which is that of its corpus, and itself.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 5] = [
    ("wal", wal),
    ("history", history),
    ("names", names),
    ("stream", stream),
    ("files", files),
];

/// A reader of WAL answers the same however the bytes are cut, says where it is,
/// and stays at an error.
pub fn wal(data: &[u8]) {
    // How to read comes first: segment size and mode, piece, position.
    let Some((choice, wal)) = data.split_first_chunk::<2>() else {
        return;
    };
    let Some((start, wal)) = wal.split_first_chunk::<8>() else {
        return;
    };
    let size =
        SegmentSize::new(1 << (20 + (choice[0] & 0x1F) % 11)).expect("a power of two within the bounds");
    let start = Lsn::new(u64::from_be_bytes(*start));
    let reader = || match choice[0] & 0x20 {
        0 => WalReader::new(size, TimelineId::FIRST, start),
        _ => WalReader::seeking(size, TimelineId::FIRST, start),
    };
    if start.checked_add(wal.len() as u64).is_none() {
        // Refused as a whole, before the bytes are looked at.
        assert!(reader().feed(start, wal, &mut Vec::new()).is_err());
        return;
    }
    let (whole, whole_events, whole_outcome) = fed(reader(), start, wal, wal.len().max(1));
    let (cut, cut_events, cut_outcome) = fed(reader(), start, wal, usize::from(choice[1]) + 1);
    assert_eq!(whole_events, cut_events);
    assert_eq!(whole_outcome, cut_outcome);
    assert_eq!(whole.last_record_end(), cut.last_record_end());
    assert_eq!(whole.first_record_start(), cut.first_record_start());
    assert_eq!(whole.end_of_wal(), cut.end_of_wal());
    let mut before = start;
    for event in &whole_events {
        assert!(before <= event.end() && event.start() < event.end());
        before = event.end();
    }
    // A record's end is aligned to 8 bytes, the padding need not be there yet.
    assert!(before.get() <= start.get().saturating_add(wal.len() as u64 + 7));
    let _ = PageHeader::parse(wal, start, size);
    let segment = size.segment_of(start);
    let _ = validate_segment_header(wal, TimelineId::FIRST, segment, SystemId::new(7), size);
}

type Fed = (WalReader, Vec<WalEvent>, Result<(), String>);

fn fed(mut reader: WalReader, start: Lsn, wal: &[u8], piece: usize) -> Fed {
    let mut events = Vec::new();
    let mut at = start;
    for bytes in wal.chunks(piece) {
        if let Err(error) = reader.feed(at, bytes, &mut events) {
            let mut none = Vec::new();
            let again = reader.feed(at, bytes, &mut none);
            assert!(
                none.is_empty() && again == Err(error.clone()),
                "an error is final"
            );
            return (reader, events, Err(error.to_string()));
        }
        at = Lsn::new(at.get() + bytes.len() as u64);
        assert_eq!(reader.position(), at);
    }
    (reader, events, Ok(()))
}

/// A history that is understood says the same when it is written down again.
pub fn history(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for timeline in [TimelineId::FIRST, TimelineId::new(9).expect("not 0")] {
        let Ok(history) = TimelineHistory::parse(timeline, &text) else {
            continue;
        };
        let lines: Vec<String> = history
            .ancestors()
            .iter()
            .map(|switch| format!("{}\t{}\tagain\n", switch.timeline, switch.end))
            .collect();
        assert_eq!(
            TimelineHistory::parse(timeline, &lines.concat()).as_ref(),
            Ok(&history)
        );
        for switch in history.ancestors() {
            assert!(switch.timeline < timeline && history.contains(switch.timeline, switch.end));
            assert_ne!(history.owner_of(switch.end), switch.timeline);
        }
    }
}

/// Names and positions have one spelling.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(name) = text.parse::<SegmentName>() {
        assert_eq!(name.to_string(), text);
        for shift in 20..=30 {
            let size = SegmentSize::new(1 << shift).expect("a power of two within the bounds");
            if let Some(segment) = name.segment(size) {
                assert_eq!(SegmentName::new(name.timeline(), segment, size), name);
            }
        }
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    if let Some(timeline) = TimelineId::parse_fixed(&text) {
        assert_eq!(timeline.fixed(), text);
    }
}

/// A message that is understood is written as it was read.
pub fn stream(data: &[u8]) {
    if let Ok(message) = StreamMessage::decode(data) {
        let written = message.encode();
        assert_eq!(StreamMessage::decode(&written), Ok(message));
        assert_eq!(written.len(), data.len());
    }
    if let Ok(status) = StandbyStatus::decode(data) {
        assert_eq!(StandbyStatus::decode(&status.encode()), Ok(status));
    }
}

/// Files that a server wrote, and the ends of our own objects.
pub fn files(data: &[u8]) {
    let _ = ControlFile::parse(data);
    let _ = BackupLabel::parse(&String::from_utf8_lossy(data));
    if let Ok(parts) = envelope::split(data) {
        assert!(parts.payload.len() + parts.header.len() + parts.signatures.len() < data.len());
        let _ = parts.signatures();
    }
}
