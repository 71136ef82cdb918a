//! `wire.pcapng`: every frame with nanosecond time, direction, and what the stack made of it as packet comments.
//!
//! Wireshark and tshark show the comments with the packet (`-T fields -e frame.comment`). Blocks are handed to the
//! sink whole, so that a file cut short by a kill reads up to its last whole block.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use pcap_file::{
    DataLink, Endianness, PcapError,
    pcapng::{
        Block, PcapNgReader, PcapNgWriter,
        blocks::{
            enhanced_packet::EnhancedPacketOption,
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};
use serde::{Deserialize, Serialize};

/// Which way a frame went, seen from the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// It reached the stack.
    In,
    /// The stack sent it.
    Out,
}

/// What the capture says about where it was taken.
#[derive(Clone, Debug)]
pub struct WireInfo {
    /// Name of the interface.
    pub interface: String,
    /// What that interface is.
    pub description: String,
    /// The hardware, in words.
    pub hardware: String,
    /// The operating system, in words.
    pub os: String,
    /// Added to every time: nanoseconds between 1970 and the run's origin. 0 keeps a repeatable run repeatable.
    pub epoch_ns: u64,
}

impl Default for WireInfo {
    fn default() -> Self {
        WireInfo {
            interface: "rightedge0".into(),
            description: "receive stack of rightedge".into(),
            hardware: std::env::consts::ARCH.into(),
            os: std::env::consts::OS.into(),
            epoch_ns: 0,
        }
    }
}

/// Writes a capture to `W`.
///
/// A frame reaches `W` as the head of its block, its bytes and the rest of its block, so `W` should collect: a
/// [`super::RecordFile`] does.
pub struct WireWriter<W: Write> {
    sink: W,
    /// The block in hand without the frame's bytes.
    block: Vec<u8>,
    packets: u64,
    epoch_ns: u64,
}

impl<W: Write> WireWriter<W> {
    /// Begins a capture: writes the section header and the description of the one interface.
    ///
    /// # Errors
    /// The sink's.
    pub fn new(sink: W, info: &WireInfo) -> io::Result<Self> {
        Self::with_snaplen(sink, info, None)
    }

    /// The same, of a capture that holds at most `snaplen` bytes of each frame.
    ///
    /// # Errors
    /// The sink's.
    pub fn with_snaplen(mut sink: W, info: &WireInfo, snaplen: Option<u32>) -> io::Result<Self> {
        let header = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![
                SectionHeaderOption::Hardware(short(&info.hardware).to_owned().into()),
                SectionHeaderOption::OS(short(&info.os).to_owned().into()),
                SectionHeaderOption::UserApplication(concat!("rightedge ", env!("CARGO_PKG_VERSION")).into()),
            ],
            ..Default::default()
        };
        let mut blocks = PcapNgWriter::with_section_header(Vec::new(), header).map_err(into_io)?;
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            // 0 is "no limit": super-segments are longer than the usual 65535.
            snaplen: snaplen.unwrap_or(0),
            options: vec![
                InterfaceDescriptionOption::IfName(short(&info.interface).to_owned().into()),
                InterfaceDescriptionOption::IfDescription(short(&info.description).to_owned().into()),
                InterfaceDescriptionOption::IfOs(short(&info.os).to_owned().into()),
                // The crate writes nanoseconds whatever is said here; readers assume microseconds unless told.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        blocks.write_pcapng_block(interface).map_err(into_io)?;
        sink.write_all(blocks.get_ref())?;
        Ok(WireWriter { sink, block: Vec::new(), packets: 0, epoch_ns: info.epoch_ns })
    }

    /// Appends a frame with one packet comment per entry of `comments`; returns its number, counted from 1.
    ///
    /// # Errors
    /// The sink's.
    pub fn write_frame(
        &mut self,
        t_ns: u64,
        direction: Direction,
        frame: &[u8],
        comments: &[String],
    ) -> io::Result<u64> {
        let comments = comments.iter().map(String::as_str);
        self.write_cut(t_ns, direction, frame, frame.len(), comments)
    }

    /// Appends what is kept, `data`, of a frame that was `original_len` bytes long on the wire.
    ///
    /// # Errors
    /// The sink's; a block longer than its format can say.
    pub fn write_cut<'c>(
        &mut self,
        t_ns: u64,
        direction: Direction,
        data: &[u8],
        original_len: usize,
        comments: impl Iterator<Item = &'c str> + Clone,
    ) -> io::Result<u64> {
        // The crate's own writer allocates for every block and copies it twice.
        let padded = |len: usize| len.next_multiple_of(4);
        let options = 8 + comments.clone().map(|c| 4 + padded(short(c).len())).sum::<usize>() + 4;
        let total = 12 + 20 + padded(data.len()) + options;
        let word = |n: usize| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let total = word(total)?.to_ne_bytes();
        let t = t_ns.saturating_add(self.epoch_ns);
        let block = &mut self.block;
        block.clear();
        block.extend_from_slice(&ENHANCED_PACKET.to_ne_bytes());
        block.extend_from_slice(&total);
        block.extend_from_slice(&0u32.to_ne_bytes());
        block.extend_from_slice(&((t >> 32) as u32).to_ne_bytes());
        block.extend_from_slice(&(t as u32).to_ne_bytes());
        block.extend_from_slice(&word(data.len())?.to_ne_bytes());
        block.extend_from_slice(&word(original_len)?.to_ne_bytes());
        self.sink.write_all(block)?;
        self.sink.write_all(data)?;
        block.clear();
        block.resize(padded(data.len()) - data.len(), 0);
        // Inbound is 1 and outbound 2 in the low bits of epb_flags.
        let flags: u32 = match direction {
            Direction::In => 1,
            Direction::Out => 2,
        };
        option_head(block, OPTION_FLAGS, 4);
        block.extend_from_slice(&flags.to_ne_bytes());
        for comment in comments.map(short) {
            option_head(block, OPTION_COMMENT, comment.len());
            block.extend_from_slice(comment.as_bytes());
            block.resize(block.len() + padded(comment.len()) - comment.len(), 0);
        }
        option_head(block, 0, 0);
        block.extend_from_slice(&total);
        self.sink.write_all(block)?;
        self.packets += 1;
        Ok(self.packets)
    }

    /// How many frames were written.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// The sink.
    pub fn sink(&self) -> &W {
        &self.sink
    }

    /// The sink, to flush it.
    pub fn sink_mut(&mut self) -> &mut W {
        &mut self.sink
    }
}

/// One frame read back.
#[derive(Clone, Debug)]
pub struct WireFrame {
    /// Its number, counted from 1.
    pub packet: u64,
    /// Its time, nanoseconds.
    pub t_ns: u64,
    /// Which way it went, if the file says so.
    pub direction: Option<Direction>,
    /// The frame, or its beginning.
    pub data: Vec<u8>,
    /// Its length on the wire, bytes; more than there is of `data` if it was cut.
    pub original_len: u32,
    /// Its comments.
    pub comments: Vec<String>,
}

/// Reads the frames of a capture in order; a block cut short ends the iteration and sets [`WireReader::cut_short`].
pub struct WireReader {
    reader: PcapNgReader<File>,
    packets: u64,
    cut_short: bool,
    name: String,
}

impl WireReader {
    /// Opens a capture.
    ///
    /// # Errors
    /// The file cannot be read or is no pcapng file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let reader =
            PcapNgReader::new(file).with_context(|| format!("{} is not a pcapng file", path.display()))?;
        Ok(WireReader { reader, packets: 0, cut_short: false, name: path.display().to_string() })
    }

    /// The next frame, `None` behind the last.
    ///
    /// # Errors
    /// A block that no pcapng writer produces.
    pub fn next_frame(&mut self) -> Result<Option<WireFrame>> {
        loop {
            let packet = self.packets + 1;
            let block = match self.reader.next_block() {
                None => return Ok(None),
                Some(Ok(block)) => block,
                Some(Err(PcapError::IncompleteBuffer)) => {
                    self.cut_short = true;
                    return Ok(None);
                }
                Some(Err(PcapError::IoError(e))) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    self.cut_short = true;
                    return Ok(None);
                }
                Some(Err(e)) => bail!("{}: block behind packet {}: {e}", self.name, packet - 1),
            };
            let Block::EnhancedPacket(p) = block else { continue };
            self.packets = packet;
            let mut frame = WireFrame {
                packet,
                t_ns: u64::try_from(p.timestamp.as_nanos()).unwrap_or(u64::MAX),
                direction: None,
                data: p.data.into_owned(),
                original_len: p.original_len,
                comments: Vec::new(),
            };
            for option in p.options {
                match option {
                    EnhancedPacketOption::Comment(c) => frame.comments.push(c.into_owned()),
                    EnhancedPacketOption::Flags(f) => {
                        frame.direction = match f & 3 {
                            1 => Some(Direction::In),
                            2 => Some(Direction::Out),
                            _ => None,
                        };
                    }
                    _ => {}
                }
            }
            return Ok(Some(frame));
        }
    }

    /// Whether the file ends in the middle of a block.
    pub fn cut_short(&self) -> bool {
        self.cut_short
    }
}

/// Type of a block, codes of its options.
const ENHANCED_PACKET: u32 = 6;
const OPTION_COMMENT: u16 = 1;
const OPTION_FLAGS: u16 = 2;

fn option_head(block: &mut Vec<u8>, code: u16, len: usize) {
    block.extend_from_slice(&code.to_ne_bytes());
    // `short` has seen to it.
    block.extend_from_slice(&(len as u16).to_ne_bytes());
}

/// Option lengths are 16 bits; a longer text is cut at a character boundary.
fn short(text: &str) -> &str {
    const MOST: usize = 60_000;
    &text[..text.floor_char_boundary(MOST)]
}

fn into_io(e: PcapError) -> io::Error {
    match e {
        PcapError::IoError(e) => e,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(frames: &[(u64, Direction, Vec<u8>, Vec<String>)]) -> Vec<u8> {
        let mut w = WireWriter::new(Vec::new(), &WireInfo::default()).unwrap();
        for (i, (t, d, f, c)) in frames.iter().enumerate() {
            assert_eq!(w.write_frame(*t, *d, f, c).unwrap(), i as u64 + 1);
        }
        w.sink
    }

    fn read(bytes: &[u8]) -> (Vec<WireFrame>, bool) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut r = WireReader::open(file.path()).unwrap();
        let mut out = Vec::new();
        while let Some(f) = r.next_frame().unwrap() {
            out.push(f);
        }
        (out, r.cut_short())
    }

    #[test]
    fn what_is_written_is_read_even_when_cut_anywhere() {
        let frames = vec![
            (1_234_567_891, Direction::In, vec![7; 60], vec!["one".into(), "two — µs".into()]),
            (1_234_567_892, Direction::Out, vec![9; 70_000], vec![]),
            (u64::MAX, Direction::In, vec![1; 61], vec!["x".repeat(100_000)]),
        ];
        let bytes = capture(&frames);
        let (all, cut) = read(&bytes);
        assert!(!cut);
        assert_eq!(all.len(), 3);
        for (f, (t, d, data, c)) in all.iter().zip(&frames) {
            assert_eq!((f.t_ns, f.direction, &f.data), (*t, Some(*d), data));
            assert_eq!(f.comments.len(), c.len());
        }
        assert_eq!(all[0].comments[1], "two — µs");
        assert_eq!(all[2].comments[0].len(), 60_000);
        let whole = capture(&frames[..1]).len();
        for len in [whole, whole + 1, whole + 400, bytes.len() - 1] {
            let (some, cut) = read(&bytes[..len]);
            assert_eq!(cut, len != whole, "{len}");
            assert_eq!(some.len(), if len < bytes.len() - 100_000 { 1 } else { 2 });
        }
    }

    #[test]
    fn a_block_is_what_the_crate_makes_of_it() {
        use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
        use std::{borrow::Cow, time::Duration};
        let head = capture(&[]).len();
        for (len, comments) in [(60, vec![]), (61, vec!["a", "", "four", "µs"]), (1515, vec!["a longer one"])]
        {
            let data = vec![7; len];
            let comments: Vec<String> = comments.into_iter().map(str::to_owned).collect();
            let t = 0x1_2345_6789_abcd;
            let ours = capture(&[(t, Direction::Out, data.clone(), comments.clone())]);
            let mut options = vec![EnhancedPacketOption::Flags(2)];
            options.extend(comments.iter().map(|c| EnhancedPacketOption::Comment(Cow::Borrowed(c.as_str()))));
            let theirs = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::from_nanos(t),
                original_len: len as u32,
                data: Cow::Owned(data),
                options,
            };
            let mut w = PcapNgWriter::with_endianness(Vec::new(), Endianness::native()).unwrap();
            w.write_pcapng_block(InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: 0,
                options: vec![],
            })
            .unwrap();
            w.get_mut().clear();
            w.write_pcapng_block(theirs).unwrap();
            assert_eq!(ours[head..], *w.get_ref());
        }
    }

    #[test]
    fn a_cut_frame_keeps_its_length_and_its_comments() {
        let mut w = WireWriter::with_snaplen(Vec::new(), &WireInfo::default(), Some(70)).unwrap();
        w.write_cut(1, Direction::In, &[7; 70], 65_590, ["one"].into_iter()).unwrap();
        w.write_cut(2, Direction::Out, &[8; 54], 54, std::iter::empty()).unwrap();
        let (all, cut) = read(&w.sink);
        assert!(!cut);
        assert_eq!((all[0].data.len(), all[0].original_len, all[0].comments.len()), (70, 65_590, 1));
        assert_eq!((all[1].data.len(), all[1].original_len), (54, 54));
    }

    #[test]
    fn noise_is_an_error_and_not_a_panic() {
        let good = capture(&[(1, Direction::In, vec![7; 60], vec!["one".into()])]);
        let mut seed = 1u32;
        let file = tempfile::NamedTempFile::new().unwrap();
        for _ in 0..300 {
            let mut bad = good.clone();
            for _ in 0..4 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = seed as usize % bad.len();
                bad[at] = (seed >> 13) as u8;
            }
            std::fs::write(file.path(), &bad).unwrap();
            if let Ok(mut r) = WireReader::open(file.path()) {
                while let Ok(Some(_)) = r.next_frame() {}
            }
        }
    }
}
