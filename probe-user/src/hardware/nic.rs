//! What a network interface says of its stamps, and having it stamp all that it receives.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;

use super::HardwareError;

/// linux/sockios.h
const SIOCETHTOOL: u32 = 0x8946;
/// linux/ethtool.h
const ETHTOOL_GET_TS_INFO: u32 = 0x41;

/// linux/if.h, with a pointer for its union, which is larger.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut libc::c_void,
    rest: [u8; 16],
}
const _: () = assert!(size_of::<Request>() >= size_of::<libc::ifreq>());

/// `struct ethtool_ts_info` (linux/ethtool.h).
#[repr(C)]
#[derive(Default)]
struct EthtoolTsInfo {
    cmd: u32,
    so_timestamping: u32,
    phc_index: i32,
    tx_types: u32,
    tx_reserved: [u32; 3],
    rx_filters: u32,
    rx_reserved: [u32; 3],
}

/// What an interface can stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Number of its clock; negative when it has none.
    pub(super) phc_index: i32,
    /// `SOF_TIMESTAMPING_*` flags.
    pub(super) so_timestamping: u32,
    /// Bit n: `HWTSTAMP_FILTER_*` of that number.
    pub(super) rx_filters: u32,
}

impl Abilities {
    /// The number of its clock, if it can stamp all that it receives.
    pub(super) fn clock(self, interface: &str) -> Result<u32, HardwareError> {
        let interface = || interface.to_owned();
        let phc =
            u32::try_from(self.phc_index).map_err(|_| HardwareError::NoClock { interface: interface() })?;
        let needed = libc::SOF_TIMESTAMPING_RX_HARDWARE | libc::SOF_TIMESTAMPING_RAW_HARDWARE;
        let all = self.rx_filters & 1 << libc::HWTSTAMP_FILTER_ALL != 0;
        if all && self.so_timestamping & needed == needed {
            Ok(phc)
        } else {
            Err(HardwareError::NotAll { interface: interface(), phc })
        }
    }
}

/// What an interface stamps: `struct hwtstamp_config` (linux/net_tstamp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamped {
    pub(super) flags: libc::c_int,
    pub(super) tx_type: libc::c_int,
    pub(super) rx_filter: libc::c_int,
}

const ALL: libc::c_int = libc::HWTSTAMP_FILTER_ALL as libc::c_int;

/// The settings of one interface.
pub(super) trait Settings: std::fmt::Debug + Send {
    /// What it stamps.
    fn get(&self) -> io::Result<Stamped>;
    /// Has it stamp this; what it does stamp from then on.
    fn set(&self, stamped: Stamped) -> io::Result<Stamped>;
}

/// A network interface, by its name.
#[derive(Debug)]
pub(super) struct Nic {
    /// Any socket carries these requests; this one is for nothing else.
    control: UnixDatagram,
    name: [u8; libc::IFNAMSIZ],
}

impl Nic {
    pub(super) fn new(interface: &str) -> Result<Self, HardwareError> {
        let mut name = [0; libc::IFNAMSIZ];
        // One byte stays for the zero at the end.
        let room = name[..libc::IFNAMSIZ - 1].get_mut(..interface.len());
        let room = room.ok_or_else(|| HardwareError::NoInterface { interface: interface.to_owned() })?;
        room.copy_from_slice(interface.as_bytes());
        let control = UnixDatagram::unbound().map_err(|source| HardwareError::Failed {
            what: "opening a socket",
            on: interface.to_owned(),
            source,
        })?;
        Ok(Self { control, name })
    }

    /// Its index in this network namespace.
    pub(super) fn index(&self) -> io::Result<u32> {
        // SAFETY: `name` ends with a zero, since `new` leaves the last byte alone, and outlives the call.
        let index = unsafe { libc::if_nametoindex(self.name.as_ptr().cast()) };
        if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index) }
    }

    pub(super) fn abilities(&self) -> io::Result<Abilities> {
        let mut info = EthtoolTsInfo { cmd: ETHTOOL_GET_TS_INFO, ..EthtoolTsInfo::default() };
        // SAFETY: this request takes a `struct ethtool_ts_info` that says which one it is.
        unsafe { self.request(SIOCETHTOOL, &mut info)? };
        Ok(Abilities {
            phc_index: info.phc_index,
            so_timestamping: info.so_timestamping,
            rx_filters: info.rx_filters,
        })
    }

    /// # Safety
    /// `request` reads and writes a `T` and no more.
    unsafe fn request<T>(&self, request: u32, data: &mut T) -> io::Result<()> {
        let mut ifreq = Request { name: self.name, data: std::ptr::from_mut(data).cast(), rest: [0; 16] };
        // SAFETY: the socket is open; `ifreq` has the size of the kernel's and outlives the call, as `data` does, of
        // which the caller says that the kernel touches no more.
        let rc = unsafe { libc::ioctl(self.control.as_raw_fd(), request as _, &raw mut ifreq) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Settings for Nic {
    fn get(&self) -> io::Result<Stamped> {
        let mut config = libc::hwtstamp_config { flags: 0, tx_type: 0, rx_filter: 0 };
        // SAFETY: this request takes a `struct hwtstamp_config`.
        unsafe { self.request(libc::SIOCGHWTSTAMP as u32, &mut config)? };
        Ok(Stamped { flags: config.flags, tx_type: config.tx_type, rx_filter: config.rx_filter })
    }

    fn set(&self, stamped: Stamped) -> io::Result<Stamped> {
        let Stamped { flags, tx_type, rx_filter } = stamped;
        let mut config = libc::hwtstamp_config { flags, tx_type, rx_filter };
        // SAFETY: this request takes a `struct hwtstamp_config`.
        unsafe { self.request(libc::SIOCSHWTSTAMP as u32, &mut config)? };
        Ok(Stamped { flags: config.flags, tx_type: config.tx_type, rx_filter: config.rx_filter })
    }
}

/// An interface that stamps all that it receives. When this is dropped it does again what it did before, unless somebody
/// else has set it since.
#[derive(Debug)]
pub(super) struct StampingAll<S: Settings> {
    nic: S,
    /// Before, and as we left it; `None`: it did so already.
    changed: Option<(Stamped, Stamped)>,
}

impl<S: Settings> StampingAll<S> {
    /// Sees to it. What is sent is stamped as before.
    pub(super) fn begin(nic: S, interface: &str, phc: u32) -> Result<Self, HardwareError> {
        let interface = || interface.to_owned();
        // Without knowing what it is set to it is not set: ptp4l may depend on it.
        let before = nic.get().map_err(|source| HardwareError::Failed {
            what: "asking what it stamps (SIOCGHWTSTAMP)",
            on: interface(),
            source,
        })?;
        if before.rx_filter == ALL {
            return Ok(Self { nic, changed: None });
        }
        let now =
            nic.set(Stamped { rx_filter: ALL, ..before }).map_err(|source| match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => HardwareError::NotPermitted { interface: interface() },
                Some(libc::ERANGE) => HardwareError::NotAll { interface: interface(), phc },
                _ => HardwareError::Failed {
                    what: "having it stamp all that it receives (SIOCSHWTSTAMP)",
                    on: interface(),
                    source,
                },
            })?;
        // Dropped at once if it did something else instead.
        let stamping = Self { nic, changed: Some((before, now)) };
        if now.rx_filter == ALL {
            Ok(stamping)
        } else {
            Err(HardwareError::NotAll { interface: interface(), phc })
        }
    }
}

impl<S: Settings> Drop for StampingAll<S> {
    fn drop(&mut self) {
        let Some((before, ours)) = self.changed else { return };
        let put_back = match self.nic.get() {
            Ok(now) if now == ours => self.nic.set(before).map(drop),
            now => now.map(drop),
        };
        if let Err(error) = put_back {
            log::warn!("the NIC goes on stamping all that it receives: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A driver that is told what it may do.
    #[derive(Clone, Debug)]
    struct Driver {
        now: Arc<Mutex<Stamped>>,
        sets: Arc<Mutex<Vec<libc::c_int>>>,
        refuses: Option<i32>,
        /// What it does when it is asked to stamp all.
        does: libc::c_int,
    }

    const PTP: libc::c_int = libc::HWTSTAMP_FILTER_PTP_V2_EVENT as libc::c_int;
    const TX_ON: libc::c_int = libc::HWTSTAMP_TX_ON as libc::c_int;

    impl Driver {
        fn new(rx_filter: libc::c_int) -> Self {
            let now = Stamped { flags: 0, tx_type: TX_ON, rx_filter };
            Self { now: Arc::new(Mutex::new(now)), sets: Arc::default(), refuses: None, does: ALL }
        }
        fn stamped(&self) -> Stamped {
            *self.now.lock().expect("no panic")
        }
        fn sets(&self) -> Vec<libc::c_int> {
            self.sets.lock().expect("no panic").clone()
        }
    }

    impl Settings for Driver {
        fn get(&self) -> io::Result<Stamped> {
            Ok(self.stamped())
        }
        fn set(&self, stamped: Stamped) -> io::Result<Stamped> {
            self.sets.lock().expect("no panic").push(stamped.rx_filter);
            if let Some(errno) = self.refuses {
                return Err(io::Error::from_raw_os_error(errno));
            }
            let rx_filter = if stamped.rx_filter == ALL { self.does } else { stamped.rx_filter };
            *self.now.lock().expect("no panic") = Stamped { rx_filter, ..stamped };
            Ok(self.stamped())
        }
    }

    fn begin(driver: &Driver) -> Result<StampingAll<Driver>, HardwareError> {
        StampingAll::begin(driver.clone(), "eth0", 3)
    }

    #[test]
    fn what_was_there_is_put_back_and_what_is_sent_stays_as_it_was() {
        let driver = Driver::new(PTP);
        let stamping = begin(&driver).expect("it can");
        assert_eq!(driver.stamped(), Stamped { flags: 0, tx_type: TX_ON, rx_filter: ALL });
        drop(stamping);
        assert_eq!(driver.stamped(), Stamped { flags: 0, tx_type: TX_ON, rx_filter: PTP });
    }

    #[test]
    fn what_is_on_already_is_left_alone() {
        let driver = Driver::new(ALL);
        drop(begin(&driver).expect("it does"));
        assert!(driver.sets().is_empty());
    }

    #[test]
    fn what_somebody_else_has_set_since_is_not_undone() {
        let driver = Driver::new(0);
        let stamping = begin(&driver).expect("it can");
        driver.now.lock().expect("no panic").rx_filter = PTP;
        drop(stamping);
        assert_eq!((driver.stamped().rx_filter, driver.sets()), (PTP, vec![ALL]));
    }

    #[test]
    fn refusals_are_told_apart_and_half_measures_taken_back() {
        let refused = |errno| begin(&Driver { refuses: Some(errno), ..Driver::new(0) }).unwrap_err();
        assert!(matches!(refused(libc::EPERM), HardwareError::NotPermitted { .. }));
        assert!(matches!(refused(libc::ERANGE), HardwareError::NotAll { phc: 3, .. }));
        let busy = refused(libc::EBUSY).to_string();
        assert!(busy.contains("eth0") && busy.contains("SIOCSHWTSTAMP") && busy.contains("busy"), "{busy}");
        let driver = Driver { does: PTP, ..Driver::new(0) };
        assert!(matches!(begin(&driver), Err(HardwareError::NotAll { .. })));
        assert_eq!((driver.stamped().rx_filter, driver.sets()), (0, vec![ALL, 0]));
    }

    #[test]
    fn an_interface_must_have_a_clock_and_stamp_everything() {
        let so_timestamping = libc::SOF_TIMESTAMPING_RX_HARDWARE | libc::SOF_TIMESTAMPING_RAW_HARDWARE;
        let able = Abilities { phc_index: 2, so_timestamping, rx_filters: 1 << ALL };
        assert_eq!(able.clock("eth0").ok(), Some(2));
        let without = |abilities: Abilities| abilities.clock("eth0").unwrap_err();
        assert!(matches!(without(Abilities { phc_index: -1, ..able }), HardwareError::NoClock { .. }));
        for other in [Abilities { rx_filters: 1 << PTP, ..able }, Abilities { so_timestamping: 0, ..able }] {
            assert!(matches!(without(other), HardwareError::NotAll { phc: 2, .. }));
        }
    }

    /// Of the real kernel: every host has a loopback interface, and that has no clock.
    #[test]
    fn the_kernel_is_asked_as_it_wants_to_be() {
        let lo = Nic::new("lo").expect("a name");
        assert_eq!(lo.index().expect("it is there"), 1);
        let abilities = lo.abilities().expect("the kernel answers");
        assert_eq!(abilities.phc_index, -1);
        assert_ne!(abilities.so_timestamping & libc::SOF_TIMESTAMPING_RX_SOFTWARE, 0);
        assert_eq!(lo.get().unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        let none = Nic::new("no-such-nic").expect("a name");
        assert_eq!(none.index().unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(none.abilities().unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(matches!(Nic::new("longer-than-fifteen"), Err(HardwareError::NoInterface { .. })));
    }
}
