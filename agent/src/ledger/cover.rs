//! Which WAL objects to read for a stretch of the log.

use holdfast_proto::pg::{Lsn, TimelineId};

use super::{Piece, WalObject};

/// The fewest objects that cover `from..until`. Each stretch is a timeline's
/// objects and the position at which its child begins; a child may hold bytes of
/// its parent, because its first segment repeats them.
pub(crate) fn cover<'a>(
    stretches: &[(TimelineId, Lsn, &'a [WalObject])],
    from: Lsn,
    until: Lsn,
) -> Vec<Piece<'a>> {
    let mut next = vec![0usize; stretches.len()];
    let mut best: Vec<Option<&WalObject>> = vec![None; stretches.len()];
    let mut pieces = Vec::new();
    let mut at = from;
    while at < until {
        let owner = stretches
            .iter()
            .position(|(_, end, _)| at < *end)
            .unwrap_or(stretches.len());
        let mut chosen = None;
        for (n, (_, end, objects)) in stretches.iter().enumerate().skip(owner) {
            while let Some(object) = objects.get(next[n]).filter(|o| o.name.start <= at) {
                if best[n].is_none_or(|b| b.name.end < object.name.end) {
                    best[n] = Some(object);
                }
                next[n] += 1;
            }
            if let Some(object) = best[n].filter(|b| b.name.end > at) {
                chosen = Some((object, (*end).min(object.name.end)));
                break;
            }
        }
        let Some((object, to)) = chosen else { break };
        let to = to.min(until);
        pieces.push(Piece { object, from: at, to });
        at = to;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::names::ObjectKey;
    use holdfast_repository::layout::WalName;
    use proptest::prelude::*;

    fn object(start: u64, end: u64) -> WalObject {
        let name = WalName {
            timeline: TimelineId::FIRST,
            segment: holdfast_proto::pg::SegmentNumber::new(0),
            start: Lsn::new(start),
            end: Lsn::new(end),
            latest_commit: None,
        };
        WalObject {
            name,
            key: ObjectKey::from_layout(format!("{start}-{end}")),
            size: end - start,
        }
    }

    #[test]
    fn a_childs_copy_stands_in_for_its_parents_bytes() {
        let parent = [object(0, 50), object(50, 80)];
        let child = [object(40, 60), object(60, 100)];
        let second = TimelineId::new(2).unwrap();
        let all = [
            (TimelineId::FIRST, Lsn::new(60), &parent[..]),
            (second, Lsn::new(100), &child[..]),
        ];
        let bounds = |pieces: Vec<Piece<'_>>| {
            pieces
                .iter()
                .map(|p| (p.object.name.start.get(), p.from.get(), p.to.get()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            bounds(cover(&all, Lsn::new(0), Lsn::new(100))),
            [(0, 0, 50), (50, 50, 60), (60, 60, 100)]
        );
        let lost = [
            (TimelineId::FIRST, Lsn::new(60), &parent[..1]),
            (second, Lsn::new(100), &child[..]),
        ];
        assert_eq!(
            bounds(cover(&lost, Lsn::new(0), Lsn::new(90))),
            [(0, 0, 50), (40, 50, 60), (60, 60, 90)]
        );
    }

    proptest! {
        #[test]
        fn pieces_join_up_and_end_at_the_first_hole(
            objects in proptest::collection::vec((0u64..60, 1u64..15), 0..15),
            from in 0u64..40,
        ) {
            let mut objects: Vec<_> = objects.iter().map(|(s, l)| object(*s, s + l)).collect();
            objects.sort_by_key(|o| (o.name.start, o.name.end));
            let pieces = cover(&[(TimelineId::FIRST, Lsn::new(70), &objects)], Lsn::new(from), Lsn::new(70));
            let mut at = from;
            for piece in &pieces {
                prop_assert_eq!(piece.from.get(), at);
                prop_assert!(piece.object.name.start <= piece.from && piece.to <= piece.object.name.end);
                prop_assert!(piece.from < piece.to);
                at = piece.to.get();
            }
            let covered = |at: u64| objects.iter().any(|o| o.name.start.get() <= at && at < o.name.end.get());
            prop_assert!((from..at).all(covered));
            prop_assert!(at >= 70 || !covered(at), "it goes as far as it can");
        }
    }
}
