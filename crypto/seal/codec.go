package seal

import (
	"runtime"
	"sync"

	"github.com/klauspost/compress"
	"github.com/klauspost/compress/zstd"
)

// Codecs of a blob's data.
const (
	CodecRaw  = 0
	CodecZstd = 1
)

const (
	sampleLen   = 4 << 10
	sampleCount = 6
	// tooRandom is the estimate below which compressing is not tried.
	tooRandom = 0.05
)

// Coders are shared: each keeps one state per processor and hands it out for
// the time of one call.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)),
			zstd.WithWindowSize(MaxPlain),
			zstd.WithSingleSegment(true), // states the content size, always
			zstd.WithLowerEncoderMem(true),
			zstd.WithEncoderCRC(false)) // GCM has checked every bit
		if err != nil {
			panic("seal: " + err.Error())
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(MaxPlain),
			zstd.WithDecoderMaxWindow(MaxPlain),
			zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic("seal: " + err.Error())
		}
		return d
	})
)

// compressible looks at a few pieces of the data, because looking at all of it
// costs as much as compressing.
func compressible(data []byte) bool {
	if len(data) <= minData {
		return false // it would be padded to the same size
	}
	if len(data) <= sampleLen*sampleCount {
		return compress.Estimate(data) >= tooRandom
	}
	step := (len(data) - sampleLen) / (sampleCount - 1)
	for i := range sampleCount {
		at := i * step
		if compress.Estimate(data[at:at+sampleLen]) >= tooRandom {
			return true
		}
	}
	return false
}

// encode appends to dst the data in the codec that pays.
func encode(dst, data []byte) ([]byte, uint8) {
	if compressible(data) {
		out := encoder().EncodeAll(data, dst)
		if n := len(out) - len(dst); n <= len(data)-len(data)/16 && paddedData(n) < paddedData(len(data)) {
			return out, CodecZstd
		}
	}
	return append(dst, data...), CodecRaw
}

// decompress returns exactly n bytes or [ErrUnseal], and never allocates more
// than n for the output whatever the frame claims.
func decompress(frame []byte, n int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(frame); err != nil || h.Skippable || h.DictionaryID != 0 || !h.HasFCS || h.FrameContentSize != uint64(n) {
		return nil, ErrUnseal
	}
	if h.HasCheckSum || !oneFrame(frame[h.HeaderSize:]) {
		return nil, ErrUnseal
	}
	out, err := decoder().DecodeAll(frame, make([]byte, 0, n))
	if err != nil || len(out) != n {
		return nil, ErrUnseal
	}
	return out, nil
}

// oneFrame reports whether blocks ends with its last block: the decoder would
// also take further frames behind it.
func oneFrame(blocks []byte) bool {
	const rle = 1
	for len(blocks) >= 3 {
		head := uint32(blocks[0]) | uint32(blocks[1])<<8 | uint32(blocks[2])<<16
		last, kind, n := head&1 == 1, head>>1&3, int(head>>3)
		if kind == rle {
			n = 1
		}
		if last || n > len(blocks)-3 {
			return n == len(blocks)-3
		}
		blocks = blocks[3+n:]
	}
	return false
}
