//! Is a longer one-way time the path's, or a clock's?

use probe_ebpf::time::{Bounded, MonoNs, Span};

use super::circumstances::{Change, Circumstances};
use super::leg::Shape;

/// An opposite direction's change that is older than this tells nothing.
const CONTEMPORARY: Span = Span::from_secs(3);
/// Changes of both directions together below this are noise.
const LEAST_SUM: Span = Span::from_micros(250);

/// What a network leg's shape comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Normal.
    Fine,
    /// The path, in this direction. `direction` says whether the clocks allow to tell which direction it is.
    Path { direction: bool },
    /// Both directions moved by opposite amounts.
    Clock,
    /// The change is not larger than what the clocks may have drifted meanwhile.
    Within,
    /// A clock lies, is what others say, and nothing shows that the path changed.
    Lie,
}

/// The change of a leg in a form that a judge of the opposite direction can use.
pub(super) fn change(now: MonoNs, shape: &Shape, bound: Span, stamps: Span) -> Change {
    let network = Bounded::new(shape.change(), bound);
    Change { at: now, network, mean: shape.mean_change, stamps }
}

/// Judges `own`, whose shape is `shape`.
pub(super) fn judge(own: &Change, shape: &Shape, c: &Circumstances) -> Finding {
    let (long, moved) = (shape.is_long(), own.network.value.abs() >= shape.limits.hit);
    if !long && !moved {
        return Finding::Fine;
    }
    let opposite = c.opposite.filter(|opposite| (own.at - opposite.at).abs() <= CONTEMPORARY);
    let beyond = own.network.value > own.network.bound;
    // A tail is compared with the same moments' median: there is no time to drift in.
    let tail = long && !shape.is_typical();
    let Some(opposite) = opposite else {
        return match (long, c.clock_uncertain) {
            (false, _) => Finding::Fine,
            (true, true) => Finding::Lie,
            (true, false) if beyond || tail => Finding::Path { direction: true },
            (true, false) => Finding::Within,
        };
    };
    // Trimmed means of the same seconds: unlike medians they move together while a change enters the window.
    let sum = own.mean + opposite.mean;
    let third = Span::from_nanos(own.mean.abs().as_nanos() / 3);
    let tolerance = (own.stamps + opposite.stamps + LEAST_SUM).max(third);
    let against = own.mean.is_negative() != opposite.mean.is_negative();
    if sum > tolerance {
        // Of a change within the clocks' drift, the larger part must be on this side.
        let blamed = long && (beyond || tail || own.mean >= opposite.mean);
        if blamed { Finding::Path { direction: beyond || tail } } else { Finding::Fine }
    } else if against && opposite.mean.abs() > tolerance {
        Finding::Clock
    } else if !long {
        Finding::Fine
    } else if c.clock_uncertain {
        Finding::Lie
    } else if tail {
        Finding::Path { direction: true }
    } else {
        Finding::Within
    }
}
