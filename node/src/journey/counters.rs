//! What became of timing reports, journeys and clock samples, in numbers.

use probe_user::clock::peer::Rejected;

/// Why a timing report was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ReportRefused {
    /// Of a packet that was never sent to this peer, or so long ago that nothing is known of it any more.
    Unknown,
    /// Of a packet whose receipt was reported before.
    Repeated,
    /// Its times contradict each other, or it tells of more packets than were sent.
    Implausible,
    /// The local clock was stepped between the packet and its report.
    OtherEpoch,
    /// It tells of too few stamps to be of use.
    Incomplete,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reports written into packets.
    pub reports_sent: u64,
    /// Reports that were not sent: too many waited, or for too long.
    pub reports_dropped: u64,
    /// Reports that were not sent since the peer is no ring neighbour and judges no path to or from here.
    pub reports_withheld: u64,
    /// Reports of peers that were used.
    pub reports_used: u64,
    /// [`ReportRefused::Unknown`].
    pub report_unknown: u64,
    /// [`ReportRefused::Repeated`].
    pub report_repeated: u64,
    /// [`ReportRefused::Implausible`].
    pub report_implausible: u64,
    /// [`ReportRefused::OtherEpoch`].
    pub report_other_epoch: u64,
    /// [`ReportRefused::Incomplete`].
    pub report_incomplete: u64,
    /// Packets that say that the peer is another run or its clock was stepped, and that are not believed yet.
    pub other_series: u64,
    /// Journeys of which all seven legs are known.
    pub journeys_whole: u64,
    /// Journeys that ended with parts unknown.
    pub journeys_half: u64,
    /// The same of packets that this node sent.
    pub journeys_out_whole: u64,
    /// Likewise, with parts unknown.
    pub journeys_out_half: u64,
    /// Packets that tell of a peer's clock, in either direction.
    pub clock_samples: u64,
    /// Of those not used: beyond any clock.
    pub clock_absurd: u64,
    /// Of those not used: taken in the future, or before what is remembered.
    pub clock_untimely: u64,
    /// Of those not used: the round trip would be negative.
    pub clock_negative_round_trip: u64,
}

impl Counters {
    /// Every counter with its name.
    pub fn labelled(&self) -> [(&'static str, u64); 18] {
        [
            ("reports_sent", self.reports_sent),
            ("reports_dropped", self.reports_dropped),
            ("reports_withheld", self.reports_withheld),
            ("reports_used", self.reports_used),
            ("report_unknown", self.report_unknown),
            ("report_repeated", self.report_repeated),
            ("report_implausible", self.report_implausible),
            ("report_other_epoch", self.report_other_epoch),
            ("report_incomplete", self.report_incomplete),
            ("other_series", self.other_series),
            ("journeys_whole", self.journeys_whole),
            ("journeys_half", self.journeys_half),
            ("journeys_out_whole", self.journeys_out_whole),
            ("journeys_out_half", self.journeys_out_half),
            ("clock_samples", self.clock_samples),
            ("clock_absurd", self.clock_absurd),
            ("clock_untimely", self.clock_untimely),
            ("clock_negative_round_trip", self.clock_negative_round_trip),
        ]
    }

    pub(super) fn sample(&mut self, taken: Result<(), Rejected>) {
        self.clock_samples += 1;
        match taken {
            Ok(()) => {}
            Err(Rejected::Absurd) => self.clock_absurd += 1,
            Err(Rejected::Future | Rejected::Late) => self.clock_untimely += 1,
            Err(Rejected::NegativeRoundTrip) => self.clock_negative_round_trip += 1,
        }
    }

    pub(super) fn refused(&mut self, why: ReportRefused) {
        match why {
            ReportRefused::Unknown => self.report_unknown += 1,
            ReportRefused::Repeated => self.report_repeated += 1,
            ReportRefused::Implausible => self.report_implausible += 1,
            ReportRefused::OtherEpoch => self.report_other_epoch += 1,
            ReportRefused::Incomplete => self.report_incomplete += 1,
        }
    }
}
