using CsCheck;
using Fleet.Shared.GuestChannel;
using Xunit;

namespace Fleet.Shared.Tests.GuestChannel;

public sealed class FrameReaderTests
{
    private static readonly Gen<(FrameType Type, uint Stream, byte[] Payload)> GenFrame = Gen.Select(
        Gen.Int[(int)FrameType.Open, (int)FrameType.Stop].Select(type => (FrameType)type), Gen.UInt[1, uint.MaxValue],
        Gen.OneOf(Gen.Byte.Array[0, 40], Gen.Byte.Array[Frame.MaxPayload - 1, Frame.MaxPayload]));

    private static byte[] Bytes(FrameType type, uint stream, byte[] payload)
    {
        var bytes = new byte[Frame.HeaderBytes + payload.Length];
        Frame.Write(bytes, type, stream, payload);
        return bytes;
    }

    private static List<(FrameType Type, uint Stream, byte[] Payload)> ReadAll(FrameReader reader, byte[] bytes, int piece, out int garbage)
    {
        var frames = new List<(FrameType, uint, byte[])>();
        garbage = 0;
        for (var at = 0; at < bytes.Length; at += piece)
        {
            ReadOnlyMemory<byte> left = bytes.AsMemory(at, Math.Min(piece, bytes.Length - at));
            var part = left.Span;
            while (true)
            {
                // As the host takes them: without a copy where that can be.
                if (piece % 2 == 0 && reader.TryReadWhole(ref left, out var payload))
                {
                    frames.Add((reader.Type, reader.Stream, payload.ToArray()));
                    part = left.Span;
                    continue;
                }
                var found = reader.Read(ref part);
                left = left[^part.Length..];
                if (found == FrameFound.Nothing) break;
                if (found == FrameFound.Garbage) garbage++;
                else frames.Add((reader.Type, reader.Stream, reader.Payload.ToArray()));
            }
            Assert.Equal(0, part.Length);
        }
        return frames;
    }

    [Fact]
    public void Should_give_back_every_frame_whatever_pieces_it_comes_in() =>
        Gen.Select(GenFrame.Array[0, 6], Gen.Int[1, 5000]).Sample((frames, piece) =>
        {
            byte[] bytes = [.. Frame.Greeting(7), .. frames.SelectMany(frame => Bytes(frame.Type, frame.Stream, frame.Payload))];
            var read = ReadAll(new FrameReader(), bytes, piece, out var garbage);
            Assert.Equal(0, garbage);
            Assert.Equal(FrameType.Greeting, read[0].Type);
            Assert.Equal(frames.Length, read.Count - 1);
            for (var i = 0; i < frames.Length; i++)
            {
                Assert.Equal((frames[i].Type, frames[i].Stream), (read[i + 1].Type, read[i + 1].Stream));
                Assert.Equal(frames[i].Payload, read[i + 1].Payload);
            }
        }, iter: 300);

    [Fact]
    public void Should_take_any_bytes_without_a_fault() =>
        Gen.Select(Gen.Byte.Array[0, 3000], Gen.Int[1, 700], Gen.Bool).Sample((noise, piece, greeted) =>
        {
            byte[] bytes = greeted ? [.. Frame.Greeting(1), .. noise] : noise;
            ReadAll(new FrameReader(), bytes, piece, out _);
        }, iter: 2000);

    /// <summary>A host that died in the middle of a frame leaves its beginning; a frame's worth of zeros ends that for sure.</summary>
    [Fact]
    public void Should_find_the_greeting_behind_a_cut_frame_and_zeros() =>
        Gen.Select(GenFrame, Gen.Int[0, Frame.MaxBytes], Gen.Int[1, 5000]).Sample((frame, cut, piece) =>
        {
            var whole = Bytes(frame.Type, frame.Stream, frame.Payload);
            byte[] bytes = [.. Frame.Greeting(1), .. whole[..Math.Min(cut, whole.Length)], .. new byte[Frame.MaxBytes], .. Frame.Greeting(2), .. Bytes(FrameType.Started, 9, [])];
            var read = ReadAll(new FrameReader(), bytes, piece, out _);
            Assert.Equal((FrameType.Greeting, 0u), (read[^2].Type, read[^2].Stream));
            Assert.Equal(2, read[^2].Payload[8]);
            Assert.Equal((FrameType.Started, 9u), (read[^1].Type, read[^1].Stream));
        }, iter: 300);

    [Fact]
    public void Should_pass_over_frames_before_a_greeting()
    {
        byte[] bytes = [.. Bytes(FrameType.Output, 1, [1, 2, 3]), .. Frame.Greeting(5)];
        var read = ReadAll(new FrameReader(), bytes, 3, out _);
        Assert.Equal(FrameType.Greeting, Assert.Single(read).Type);
    }

    [Theory]
    [InlineData(0, 1u, 0)]
    [InlineData(17, 1u, 0)]
    [InlineData((int)FrameType.Output, 0u, 0)]
    [InlineData((int)FrameType.Output, 1u, Frame.MaxPayload + 1)]
    public void Should_call_a_wrong_header_garbage(int type, uint stream, int payload)
    {
        byte[] header = [Frame.Marker, (byte)type, (byte)payload, (byte)(payload >> 8), (byte)stream, 0, 0, 0];
        ReadAll(new FrameReader(), [.. Frame.Greeting(1), .. header], 64, out var garbage);
        Assert.Equal(1, garbage);
    }
}
