//! Writes archives in the `newc` format of cpio, which the kernel unpacks as its first file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// What a member is: the type bits of its mode.
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
/// The member that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive being written. Paths are relative, and a directory comes before what is in it.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    members: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, mode 0755.
    pub fn directory(&mut self, path: &str) {
        self.member(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file that can be executed, mode 0755.
    pub fn program(&mut self, path: &str, content: &[u8]) {
        self.member(path, REGULAR | 0o755, (0, 0), content);
    }

    /// Adds a character device, mode 0600.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.member(path, CHARACTER | 0o600, (major, minor), &[]);
    }

    /// Ends the archive.
    ///
    /// # Panics
    /// When a member was larger than the format's 4 GiB.
    pub fn finish(mut self) -> Vec<u8> {
        self.member(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn member(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.members += 1;
        let size = u32::try_from(content.len()).expect("the format has 32 bits for a size");
        let name_size = path.len() as u32 + 1;
        let (ino, links, owner, group, mtime, checksum) = (self.members, 1, 0, 0, 0, 0);
        self.bytes.extend_from_slice(b"070701");
        for field in
            [ino, mode, links, owner, group, mtime, size, 0, 0, device.0, device.1, name_size, checksum]
        {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Headers and contents start at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_header_name_and_content_each_padded_to_four() {
        let mut archive = Archive::new();
        archive.program("init", b"#!sh\n");
        let header = "070701\
            00000001000081ed0000000100000000000000000000000000000005\
            00000000000000000000000000000000\
            0000000500000000";
        assert_eq!(header.len(), 110);
        // 110 + "init\0" = 115, padded to 116; 5 bytes of content, padded to 8.
        let expected = [header.as_bytes(), b"init\0\0", b"#!sh\n\0\0\0"].concat();
        assert_eq!(archive.bytes, expected);
    }

    #[test]
    fn a_device_has_its_numbers_and_the_trailer_ends_it() {
        let mut archive = Archive::new();
        archive.directory("dev");
        archive.device("dev/console", 5, 1);
        let bytes = archive.finish();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let members: Vec<&str> = text.split("070701").skip(1).collect();
        assert_eq!(members.len(), 3);
        let field = |member: usize, n: usize| &members[member][n * 8..][..8];
        assert_eq!((field(0, 1), field(1, 1)), ("000041ed", "00002180"));
        assert_eq!((field(1, 9), field(1, 10)), ("00000005", "00000001"));
        assert!(members[2].contains(TRAILER));
        assert_eq!(bytes.len() % 4, 0);
    }
}
