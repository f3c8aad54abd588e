//! Reads a NIC's clock (`/dev/ptpN`, Documentation/driver-api/ptp.rst) beside REALTIME.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use probe_ebpf::time::{PhcNs, RealNs, Span};

use super::mapping::PhcReading;
use super::{HardwareError, NicClock};

/// Brackets per reading, to find a narrow one. Each costs one read over PCIe, a microsecond or so.
const SAMPLES: usize = 5;
/// What is allowed for where the hardware itself reads both clocks at once: it names no error. PCIe's precision time
/// measurement is good to tens of nanoseconds.
const PRECISE: Span = Span::from_micros(1);

/// A NIC's clock.
#[derive(Debug)]
pub(super) struct Phc {
    device: File,
    path: String,
    /// The hardware reads both clocks at once.
    precise: bool,
}

impl Phc {
    /// Opens it and reads it once, to see how that is done here.
    pub(super) fn open(number: u32) -> Result<Self, HardwareError> {
        let path = format!("/dev/ptp{number}");
        let device = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => HardwareError::ClockNotPermitted { path: path.clone() },
            _ => HardwareError::Failed { what: "opening the NIC's clock", on: path.clone(), source },
        })?;
        let mut phc = Self { device, path, precise: true };
        if phc.read_precise().is_err() {
            phc.precise = false;
            phc.read()?;
        }
        Ok(phc)
    }

    fn read_precise(&self) -> io::Result<PhcReading> {
        // SAFETY: a C struct of integers, for which all zeros is a valid value.
        let mut both: libc::ptp_sys_offset_precise = unsafe { std::mem::zeroed() };
        // SAFETY: the device is open; this request takes a `struct ptp_sys_offset_precise`, which outlives the call.
        let rc =
            unsafe { libc::ioctl(self.device.as_raw_fd(), libc::PTP_SYS_OFFSET_PRECISE as _, &raw mut both) };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        let (phc, real) = (PhcNs::from_nanos(nanos(&both.device)), nanos(&both.sys_realtime));
        Ok(PhcReading { phc, real: RealNs::from_nanos(real), error: PRECISE })
    }

    fn read_brackets(&self) -> io::Result<PhcReading> {
        // SAFETY: as above. Its clock number 0 is REALTIME, the only one that older kernels have.
        let mut offsets: libc::ptp_sys_offset_extended = unsafe { std::mem::zeroed() };
        offsets.n_samples = SAMPLES as libc::c_uint;
        // SAFETY: the device is open; this request takes a `struct ptp_sys_offset_extended`, which outlives the call.
        let rc = unsafe {
            libc::ioctl(self.device.as_raw_fd(), libc::PTP_SYS_OFFSET_EXTENDED as _, &raw mut offsets)
        };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        narrowest(&offsets.ts[..SAMPLES])
            .ok_or_else(|| io::Error::other("REALTIME was stepped while it was read"))
    }
}

impl NicClock for Phc {
    fn read(&mut self) -> Result<PhcReading, HardwareError> {
        let reading = if self.precise { self.read_precise() } else { self.read_brackets() };
        reading.map_err(|source| HardwareError::Failed {
            what: "reading the NIC's clock beside the kernel's",
            on: self.path.clone(),
            source,
        })
    }
}

fn narrowest(samples: &[[libc::ptp_clock_time; 3]]) -> Option<PhcReading> {
    PhcReading::narrowest(samples.iter().map(|[before, phc, after]| {
        (RealNs::from_nanos(nanos(before)), PhcNs::from_nanos(nanos(phc)), RealNs::from_nanos(nanos(after)))
    }))
}

fn nanos(time: &libc::ptp_clock_time) -> i64 {
    time.sec.saturating_mul(1_000_000_000).saturating_add(time.nsec.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(sec: i64, nsec: u32) -> libc::ptp_clock_time {
        // SAFETY: a C struct of integers, for which all zeros is a valid value.
        let zero: libc::ptp_clock_time = unsafe { std::mem::zeroed() };
        libc::ptp_clock_time { sec, nsec, ..zero }
    }

    #[test]
    fn the_kernels_samples_become_one_reading() {
        let samples = [
            [time(1_700_000_000, 999_999_000), time(41, 5), time(1_700_000_001, 3_000)],
            [time(1_700_000_001, 5_000), time(41, 6_000), time(1_700_000_001, 7_000)],
        ];
        let expected = PhcReading {
            phc: PhcNs::from_nanos(41_000_006_000),
            real: RealNs::from_nanos(1_700_000_001_000_006_000),
            error: Span::from_nanos(1_000),
        };
        assert_eq!(narrowest(&samples), Some(expected));
    }

    #[test]
    fn what_is_no_clock_is_named() {
        let error = Phc::open(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("/dev/ptp4294967295") && error.contains("No such file"), "{error}");
        let device = File::open("/dev/null").expect("it is there");
        let error = Phc { device, path: "/dev/null".into(), precise: false }.read().unwrap_err().to_string();
        assert!(error.contains("/dev/null") && error.contains("Inappropriate ioctl"), "{error}");
    }
}
