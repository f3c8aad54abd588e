//! What a node tells the cluster of the paths that it judges: a few dozen bytes, whatever the cluster's size.

use serde::{Deserialize, Serialize};

use super::{Cause, Verdict};

/// Paths named in a summary.
pub const MOST_WORST: usize = 4;
/// The longest name of a peer.
const NAME: usize = 16;
/// The longest encoding.
pub const MOST_BYTES: usize = 120;
/// First word of the encoding.
const VERSION: &str = "1";

/// One path that is not well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Worst {
    /// Its other end, by [`short_name`].
    pub peer: String,
    /// From the reporting host to the peer; else towards the reporting host.
    pub outgoing: bool,
    /// The verdict's.
    pub cause: Cause,
    /// Excess time per journey in steps of about three, from 0 (below 1 ms, or a loss) to 9 (3 s and more).
    pub magnitude: u8,
}

/// A node's own view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Whose it is, its whole id; not encoded, since it is known whose entry it is.
    pub host: String,
    /// Paths judged `ok`.
    pub ok: u16,
    /// Paths in trouble, those of `worst` included.
    pub bad: u16,
    /// Paths judged `unknown` or `clock_uncertain`.
    pub unclear: u16,
    /// The worst of them, at most [`MOST_WORST`].
    pub worst: Vec<Worst>,
}

/// Why a text is no summary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SummaryError {
    /// Longer than any.
    #[error("{0} bytes are more than a summary's {MOST_BYTES}; it is not used")]
    TooLong(usize),
    /// Another format's.
    #[error("{0:?} is no version of a summary that this program knows; it is not used")]
    Version(String),
    /// A word that does not fit.
    #[error("{0:?} is neither a number nor a path of a summary; it is not used")]
    Word(String),
}

/// A node's id as it is named in summaries: itself if it is short and plain, else its beginning and a hash.
pub fn short_name(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    if !id.is_empty() && id.len() <= NAME && id.chars().all(plain) {
        return id.to_owned();
    }
    // FNV-1a (draft-eastlake-fnv), 24 bits of it.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let start: String = id.chars().filter(|c| plain(*c)).take(NAME - 7).collect();
    format!("{start}~{:06x}", (hash ^ (hash >> 32)) & 0xff_ffff)
}

/// Excess time per journey in steps of about three, from 0 (below 1 ms, or a loss) to 9 (above 3 s).
fn magnitude(verdict: &Verdict) -> u8 {
    const STEPS_MS: [i64; 9] = [1, 3, 10, 30, 100, 300, 1000, 2000, 3000];
    let ms = verdict.effect.as_nanos() / 1_000_000;
    STEPS_MS.iter().take_while(|step| ms >= **step).count() as u8
}

const fn code(cause: Cause) -> &'static str {
    match cause {
        Cause::Ok => "ok",
        Cause::Unknown => "un",
        Cause::Network => "nw",
        Cause::NetworkOrHostSoftirq => "ns",
        Cause::LocalQueue => "lq",
        Cause::ReceiverProcess => "rp",
        Cause::SenderProcess => "sp",
        Cause::ReceiverKernel => "rk",
        Cause::SenderKernel => "sk",
        Cause::LossHere => "lh",
        Cause::LossNetwork => "ln",
        Cause::ClockUncertain => "cu",
    }
}

impl Summary {
    /// Of the verdicts on the paths between `host` and its ring neighbours: the peer's id, whether the path leads to it, the verdict.
    pub fn of<'a>(host: &str, paths: impl IntoIterator<Item = (&'a str, bool, &'a Verdict)>) -> Self {
        let mut summary = Self { host: host.to_owned(), ..Self::default() };
        for (peer, outgoing, verdict) in paths {
            let cause = verdict.cause;
            let count = match cause {
                Cause::Ok => &mut summary.ok,
                Cause::Unknown | Cause::ClockUncertain => &mut summary.unclear,
                _ => &mut summary.bad,
            };
            *count = count.saturating_add(1);
            if cause.is_trouble() || cause == Cause::ClockUncertain {
                let magnitude = magnitude(verdict);
                summary.worst.push(Worst { peer: short_name(peer), outgoing, cause, magnitude });
            }
        }
        summary.worst.sort_by(|a, b| {
            let first = |w: &Worst| (!w.cause.is_trouble(), std::cmp::Reverse(w.magnitude));
            first(a).cmp(&first(b)).then_with(|| a.cmp(b))
        });
        summary.worst.truncate(MOST_WORST);
        summary
    }

    /// As a gossip value: printable ASCII, at most [`MOST_BYTES`].
    pub fn encode(&self) -> String {
        let mut text = format!("{VERSION} {} {} {}", self.ok, self.bad, self.unclear);
        for Worst { peer, outgoing, cause, magnitude } in self.worst.iter().take(MOST_WORST) {
            let way = if *outgoing { '>' } else { '<' };
            text += &format!(" {}{way}{}{}", peer, code(*cause), magnitude.min(&9));
        }
        text
    }

    /// Reads a gossip value of `host`.
    pub fn decode(host: &str, text: &str) -> Result<Self, SummaryError> {
        if text.len() > MOST_BYTES {
            return Err(SummaryError::TooLong(text.len()));
        }
        let mut words = text.split(' ');
        match words.next() {
            Some(VERSION) => {}
            other => return Err(SummaryError::Version(other.unwrap_or_default().to_owned())),
        }
        let mut number = || {
            let word = words.next().unwrap_or_default();
            word.parse::<u16>().map_err(|_| SummaryError::Word(word.to_owned()))
        };
        let (ok, bad, unclear) = (number()?, number()?, number()?);
        let worst: Vec<Worst> = words.map(worst_of).collect::<Result<_, _>>()?;
        if worst.len() > MOST_WORST {
            return Err(SummaryError::Word(text.to_owned()));
        }
        Ok(Self { host: host.to_owned(), ok, bad, unclear, worst })
    }
}

fn worst_of(word: &str) -> Result<Worst, SummaryError> {
    let parse = || {
        let (peer, rest) = word.split_once(['<', '>'])?;
        let (name, magnitude) = rest.split_at_checked(2)?;
        let cause = *Cause::ALL.iter().find(|cause| code(**cause) == name)?;
        let magnitude: u8 = magnitude.parse().ok().filter(|m| *m <= 9)?;
        let short = !peer.is_empty() && peer.len() <= NAME;
        let named = cause.is_trouble() || cause == Cause::ClockUncertain;
        let outgoing = word.as_bytes().get(peer.len()) == Some(&b'>');
        (short && named).then(|| Worst { peer: peer.to_owned(), outgoing, cause, magnitude })
    };
    parse().ok_or_else(|| SummaryError::Word(word.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_worst() -> impl Strategy<Value = Worst> {
        (".{0,40}", any::<bool>(), 2usize..12, 0u8..10).prop_map(|(id, outgoing, cause, magnitude)| Worst {
            peer: short_name(&id),
            outgoing,
            cause: Cause::ALL[cause],
            magnitude,
        })
    }

    proptest! {
        #[test]
        fn encodes_within_the_limit_and_decodes_to_itself(
            ok: u16, bad: u16, unclear: u16, worst in prop::collection::vec(any_worst(), 0..=MOST_WORST)
        ) {
            let summary = Summary { host: "h".into(), ok, bad, unclear, worst };
            let text = summary.encode();
            prop_assert!(text.len() <= MOST_BYTES && text.is_ascii(), "{text}");
            prop_assert_eq!(Summary::decode("h", &text), Ok(summary));
        }

        #[test]
        fn any_text_decodes_or_is_refused(text in ".{0,150}", tail in "[0-9a-z<> ]{0,80}") {
            let _ = Summary::decode("h", &text);
            let _ = Summary::decode("h", &format!("1 {tail}"));
            let _ = Summary::decode("h", &format!("1 1 2 3 {tail}"));
        }
    }

    #[test]
    fn long_ids_stay_distinct_and_short_ones_stay_themselves() {
        assert_eq!(short_name("node-7.example:1"), "node-7.example:1");
        let long = ["a-very-long-node-name-0001", "a-very-long-node-name-0002"].map(short_name);
        assert_ne!(long[0], long[1]);
        assert!(long.iter().all(|name| name.len() <= NAME));
    }
}
