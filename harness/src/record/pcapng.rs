//! `wire.pcapng`: every frame with nanosecond time, direction, and what the stack made of it as packet comments.
//!
//! Wireshark and tshark show the comments with the packet (`-T fields -e frame.comment`). Blocks are handed to the
//! sink whole, so that a file cut short by a kill reads up to its last whole block.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use pcap_file::{
    DataLink, Endianness, PcapError,
    pcapng::{
        Block, PcapNgReader, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
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

/// Writes a capture to `W`. Each frame reaches `W` in one piece.
pub struct WireWriter<W: Write> {
    blocks: PcapNgWriter<Vec<u8>>,
    sink: W,
    packets: u64,
    epoch_ns: u64,
}

impl<W: Write> WireWriter<W> {
    /// Begins a capture: writes the section header and the description of the one interface.
    ///
    /// # Errors
    /// The sink's.
    pub fn new(mut sink: W, info: &WireInfo) -> io::Result<Self> {
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
            snaplen: 0,
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
        blocks.get_mut().clear();
        Ok(WireWriter { blocks, sink, packets: 0, epoch_ns: info.epoch_ns })
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
        // Inbound is 1 and outbound 2 in the low bits of epb_flags.
        let flags = match direction {
            Direction::In => 1,
            Direction::Out => 2,
        };
        let mut options = vec![EnhancedPacketOption::Flags(flags)];
        options.extend(comments.iter().map(|c| EnhancedPacketOption::Comment(Cow::Borrowed(short(c)))));
        let original_len = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let block = Block::EnhancedPacket(EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(t_ns.saturating_add(self.epoch_ns)),
            original_len,
            data: Cow::Borrowed(frame),
            options,
        });
        self.blocks.get_mut().clear();
        self.blocks.write_block(&block).map_err(into_io)?;
        self.sink.write_all(self.blocks.get_ref())?;
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
    /// The frame.
    pub data: Vec<u8>,
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
