//! One choice of a window, computed again step by step from what the stack recorded.
//!
//! Answers to `__tcp_select_window` and `tcp_select_window` (Linux 6.1 and 6.18). Every result is held against the
//! recorded one; where they differ, a note says so instead of hiding it.

use serde::Serialize;
use serde_json::Value;

use crate::record::DecisionLine;

/// One step of the computation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What is done.
    pub what: String,
    /// The numbers.
    pub numbers: String,
    /// The kernel function that does it.
    pub function: &'static str,
}

/// A window and how it came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WindowExplanation {
    /// The window in bytes.
    pub rcv_wnd: i64,
    /// The 16-bit field.
    pub field: i64,
    /// The scale.
    pub wscale: u32,
    /// The limit that decided, as the stack named it.
    pub limit: String,
    /// How far the right edge moved.
    pub edge_moved: i64,
    /// One sentence.
    pub because: String,
    /// The computation.
    pub steps: Vec<Step>,
    /// Where computing it again gives something else.
    pub notes: Vec<String>,
}

/// Inputs as recorded; numbers of a hostile file are bounded so that no arithmetic below can overflow.
struct Inputs {
    rcvbuf: i64,
    rmem: i64,
    backlog: i64,
    free: i64,
    full: i64,
    clamp: i64,
    ssthresh: i64,
    mss: i64,
    ws: u32,
    unit: i64,
    old: i64,
    raw: i64,
    rcv_wnd: i64,
    field: i64,
    rcv_nxt: i64,
    shrink: String,
    limit: String,
    edge_kept: bool,
}

impl Inputs {
    fn of(line: &DecisionLine) -> Self {
        const MOST: i64 = 1 << 40;
        let number = |field: &str| line.number(field).unwrap_or(0).clamp(-MOST, MOST);
        let text = |field: &str| line.decision.get(field).and_then(Value::as_str).unwrap_or("?").to_owned();
        let ws = number("rcv_wscale").clamp(0, 14) as u32;
        Inputs {
            rcvbuf: number("sk_rcvbuf"),
            rmem: number("sk_rmem_alloc"),
            backlog: number("backlog_len"),
            free: number("free_space"),
            full: number("full_space"),
            clamp: number("window_clamp"),
            ssthresh: number("rcv_ssthresh"),
            mss: number("rcv_mss"),
            ws,
            unit: 1 << ws,
            old: number("old_window"),
            raw: number("raw_window"),
            rcv_wnd: number("rcv_wnd"),
            field: number("field"),
            rcv_nxt: number("rcv_nxt"),
            shrink: text("shrink"),
            limit: text("limit"),
            edge_kept: line.decision.get("edge_kept").and_then(Value::as_bool).unwrap_or(false),
        }
    }

    /// The policy lets the edge move left.
    fn may_shrink(&self) -> bool {
        self.shrink.starts_with("first") || (self.shrink == "merged" && self.ws > 0)
    }

    fn down(&self, x: i64) -> i64 {
        x & !(self.unit - 1)
    }

    fn up(&self, x: i64) -> i64 {
        (x + self.unit - 1) & !(self.unit - 1)
    }
}

const SELECT: &str = "__tcp_select_window";
const ADVERTISE: &str = "tcp_select_window";

/// Lays out a recorded window choice. `syn` says that it went into a SYN, whose field is never scaled.
pub(super) fn explain(line: &DecisionLine, syn: bool) -> WindowExplanation {
    let i = Inputs::of(line);
    let mut steps = Vec::new();
    let mut notes = Vec::new();
    let mut step = |what: &str, numbers: String, function| {
        steps.push(Step { what: what.to_owned(), numbers, function });
    };
    let mut differs = |name: &str, ours: i64, recorded: i64| {
        if ours != recorded {
            notes.push(format!(
                "computing {name} again gives {ours}, the stack recorded {recorded}: an input changed in between, or one of the two is wrong"
            ));
        }
    };

    let raw = if i.limit == "no-memory" {
        step(
            "no memory for a segment",
            "the arriving segment found no memory, so this ACK offers a window of 0 wherever the edge was"
                .into(),
            ADVERTISE,
        );
        Some(0)
    } else if i.limit == "steered" {
        step("said from outside", format!("the window was steered to {}: memory was not asked", i.raw), "—");
        Some(i.raw)
    } else {
        let memory = i.rcvbuf - i.rmem - i.backlog;
        step(
            "free memory",
            format!("sk_rcvbuf {} − sk_rmem_alloc {} − backlog {} = {memory}", i.rcvbuf, i.rmem, i.backlog),
            "tcp_space",
        );
        let rule = line.decision.get("space_rule").unwrap_or(&Value::Null);
        for (name, space, recorded, function) in [
            ("free space", memory, i.free, "tcp_space, tcp_win_from_space"),
            ("full space", i.rcvbuf, i.full, "tcp_full_space, tcp_win_from_space"),
        ] {
            match worth(rule, space) {
                Some((value, words)) => {
                    step(name, words, function);
                    differs(name, value, recorded);
                }
                None => step(name, format!("{space} bytes of memory are worth {recorded}"), function),
            }
        }
        raw(&i, &mut step)
    };
    if let Some(raw) = raw {
        differs("the raw window", raw, i.raw);
    }

    // A sequence number, so it wraps.
    let edge = (i.rcv_nxt + i.old) & 0xffff_ffff;
    let steered = i.limit == "steered";
    let kept = i.raw < i.old && !i.may_shrink() && !steered && i.limit != "no-memory";
    let offered = match (kept, steered) {
        (true, _) => i.up(i.old),
        (_, true) => i.down(i.raw.min(65_535 << i.ws)),
        _ => i.raw,
    };
    let numbers = if kept {
        let creep = offered - i.old;
        let creep = if creep > 0 {
            format!(
                ": the right edge creeps {creep} to the right because a scaled window counts in units of {}",
                i.unit
            )
        } else {
            String::new()
        };
        format!(
            "{} is less than the {} still open, and the right edge ({edge}) must not move left (shrink = {}): \
             {} rounded up to {offered}{creep}",
            i.raw, i.old, i.shrink, i.old
        )
    } else if steered {
        format!("{} was {} still open; {} in units of {}: {offered}", i.raw, i.old, i.raw, i.unit)
    } else if i.raw < i.old {
        format!(
            "{} is less than the {} still open; the edge may move left (shrink = {})",
            i.raw, i.old, i.shrink
        )
    } else {
        format!(
            "{} is not less than the {} still open: the right edge ({edge}) stays or moves right",
            i.raw, i.old
        )
    };
    step("compare with the window still open", numbers, ADVERTISE);
    differs("rcv_wnd", offered, i.rcv_wnd);
    if kept != i.edge_kept {
        notes.push(format!("the stack recorded edge_kept = {}, the rule says {kept}", i.edge_kept));
    }

    let shift = if syn { 0 } else { i.ws };
    let most = 65_535i64 << shift;
    let field = i.rcv_wnd.clamp(0, most) >> shift;
    let numbers = if syn {
        format!("min({}, 65535) = {field}: the window of a SYN is never scaled", i.rcv_wnd)
    } else {
        let lost = i.rcv_wnd - (field << shift);
        let lost = if lost > 0 { format!("; {lost} bytes of it cannot be expressed") } else { String::new() };
        format!("min({}, 65535·2^{shift}) >> {shift} = {field}{lost}", i.rcv_wnd)
    };
    step("field on the wire", numbers, ADVERTISE);
    differs_signed_workaround(&mut notes, field, i.field, i.ws);

    let moved = line.number("edge_moved").unwrap_or(0);
    WindowExplanation {
        rcv_wnd: i.rcv_wnd,
        field: i.field,
        wscale: i.ws,
        because: because(&i, kept, moved),
        limit: i.limit,
        edge_moved: moved,
        steps,
        notes,
    }
}

/// The raw window, `None` where the recorded inputs do not suffice to compute it.
fn raw(i: &Inputs, step: &mut impl FnMut(&str, String, &'static str)) -> Option<i64> {
    let full = i.clamp.min(i.full);
    let mss = i.mss.min(full);
    step(
        "whole window and segment size",
        format!(
            "min(window_clamp {}, full space {}) = {full}; rcv_mss {} counts as {mss}",
            i.clamp, i.full, i.mss
        ),
        SELECT,
    );
    if i.mss > full && mss <= 0 {
        step("nothing to offer", "the whole window is not worth one byte: 0".into(), SELECT);
        return Some(0);
    }
    let shrinking = i.may_shrink() && i.ws > 0;
    let mut free = i.free;
    if shrinking {
        free = i.down(free);
        step("round down first", format!("{} to units of {}: {free}", i.free, i.unit), SELECT);
    }
    if free < full >> 1 {
        let mut low = format!("{free} is less than half of {full}, so small windows are tested for");
        if !shrinking {
            free = i.down(free);
            low += &format!("; rounded down to units of {}: {free}", i.unit);
        }
        let sixteenth = i.full >> 4;
        let verdict = if free < sixteenth {
            Some(format!("{free} < {sixteenth}, a sixteenth of the full space: 0"))
        } else if free < mss {
            Some(format!("{free} < {mss}, one segment: 0"))
        } else if shrinking && free < i.unit {
            Some(format!("{free} < {}, one unit of the scale: 0", i.unit))
        } else {
            None
        };
        step("space is low", low, SELECT);
        let zero = verdict.is_some();
        let passed = format!("at least {sixteenth} (1/16 of the full space) and {mss} (one segment): kept");
        step("silly windows", verdict.unwrap_or(passed), SELECT);
        if zero {
            return Some(0);
        }
    }
    let capped = free > i.ssthresh;
    step(
        "cap by rcv_ssthresh",
        if capped {
            format!("{free} is above rcv_ssthresh {0}: {0}", i.ssthresh)
        } else {
            format!("{free} is not above rcv_ssthresh {}: stays", i.ssthresh)
        },
        SELECT,
    );
    let wanted = if capped { i.ssthresh } else { free };
    if i.ws > 0 {
        let rounded = i.up(wanted);
        step(
            "round up to the scale",
            format!("{wanted} to units of 2^{} = {}: {rounded}", i.ws, i.unit),
            SELECT,
        );
        return Some(rounded);
    }
    // Which of the two it is depends on rcv_wnd as stored, which the record lacks: the limit tells.
    let (numbers, value) = match i.limit.as_str() {
        "whole-segments" if mss > 0 => (
            format!("{wanted} in whole segments of {mss}: {}", wanted - wanted % mss),
            Some(wanted - wanted % mss),
        ),
        "kept-within-mss" => (format!("within one segment of {wanted}, so the window stays {}", i.raw), None),
        _ => (format!("{wanted}"), Some(wanted)),
    };
    step("without scaling: whole segments", numbers, SELECT);
    value
}

/// What `space` bytes of memory are worth under a recorded rule, with the arithmetic in words.
fn worth(rule: &Value, space: i64) -> Option<(i64, String)> {
    if let Some(ratio) = rule.get("scaling_ratio").and_then(Value::as_i64) {
        let ratio = ratio.clamp(0, 255);
        let value = (space * ratio) >> 8;
        return Some((value, format!("{space} × scaling_ratio {ratio} >> 8 = {value}")));
    }
    let scale = rule.get("adv_win_scale").and_then(Value::as_i64)?.clamp(-31, 31);
    if scale <= 0 {
        let value = space >> -scale;
        return Some((value, format!("tcp_adv_win_scale {scale}: {space} >> {} = {value}", -scale)));
    }
    let value = space - (space >> scale);
    Some((value, format!("tcp_adv_win_scale {scale}: {space} − ({space} >> {scale}) = {value}")))
}

fn differs_signed_workaround(notes: &mut Vec<String>, ours: i64, recorded: i64, ws: u32) {
    if ours != recorded {
        let why = if ws == 0 && recorded == 32_767 {
            "tcp_workaround_signed_windows caps an unscaled window"
        } else {
            "an input changed in between, or one of the two is wrong"
        };
        notes.push(format!("computing the field again gives {ours}, the stack recorded {recorded}: {why}"));
    }
}

fn because(i: &Inputs, kept: bool, moved: i64) -> String {
    if kept {
        let least = if i.raw == 0 { "no window at all".to_owned() } else { format!("only {} bytes", i.raw) };
        return format!(
            "the window is {} bytes although {least} would be justified now ({}): the old right edge is kept",
            i.rcv_wnd,
            limit_words(&i.limit)
        );
    }
    let edge = match moved {
        0 => "the right edge stays".to_owned(),
        m if m > 0 => format!("the right edge moves right by {m}"),
        m => format!("the right edge moves LEFT by {}", m.unsigned_abs()),
    };
    format!("the window is {} bytes, decided by this: {}; {edge}", i.rcv_wnd, limit_words(&i.limit))
}

fn limit_words(limit: &str) -> &str {
    match limit {
        "no-memory" => "no memory was found for a segment",
        "nothing-to-offer" => "the whole buffer is worth nothing",
        "below-sixteenth" => "free space is below 1/16 of the full space",
        "below-mss" => "free space is below one segment",
        "below-scale-unit" => "free space is below one unit of the window scale",
        "free-space" => "the free space",
        "rcv-ssthresh" => "rcv_ssthresh",
        "kept-within-mss" => "the old window is within one segment of the free space",
        "whole-segments" => "the free space in whole segments",
        "steered" => "it was said from outside",
        other => other,
    }
}
