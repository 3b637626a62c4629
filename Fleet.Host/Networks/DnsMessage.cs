using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Fleet.Host.Networks;

/// <summary>What a DNS query asks (RFC 1035, 4.1).</summary>
/// <param name="Name">In small letters, labels joined by dots, without the last one.</param>
/// <param name="Type">QTYPE.</param>
/// <param name="Length">Bytes of the message up to the end of the question.</param>
internal readonly record struct DnsQuestion(string Name, ushort Type, int Length);

/// <summary>Reads queries, which may hold anything, and writes answers. Nothing here throws on what came from outside.</summary>
internal static class DnsMessage
{
    public const int Port = 53;
    public const int HeaderSize = 12;
    public const ushort A = 1;
    public const ushort Aaaa = 28;
    public const int NoError = 0;
    public const int ServerFailure = 2;
    public const int NoSuchName = 3;

    private const ushort InternetClass = 1;
    private const int LongestName = 255;
    private const int LongestLabel = 63;

    /// <summary>Seconds that a microVM's address may be kept: one that is started anew may have another.</summary>
    private const int TimeToLive = 5;

    /// <summary>The one question of a query; null: this is none that we answer or pass on.</summary>
    public static DnsQuestion? Parse(ReadOnlySpan<byte> message)
    {
        // A standard query (no response, opcode 0) with one question.
        if (message.Length < HeaderSize || (message[2] & 0xf8) != 0 || BinaryPrimitives.ReadUInt16BigEndian(message[4..]) != 1)
            return null;
        var name = new StringBuilder();
        var at = HeaderSize;
        while (true)
        {
            if (at >= message.Length)
                return null;
            int length = message[at++];
            if (length == 0)
                break;
            if (length > LongestLabel || at + length > message.Length || at + length - HeaderSize > LongestName)
                return null;
            if (name.Length > 0)
                name.Append('.');
            foreach (var letter in message.Slice(at, length))
            {
                // A dot within a label would read as two labels.
                if (letter is <= (byte)' ' or >= 127 or (byte)'.')
                    return null;
                name.Append(char.ToLowerInvariant((char)letter));
            }

            at += length;
        }

        if (at + 4 > message.Length || BinaryPrimitives.ReadUInt16BigEndian(message[(at + 2)..]) != InternetClass)
            return null;
        return new(name.ToString(), BinaryPrimitives.ReadUInt16BigEndian(message[at..]), at + 4);
    }

    /// <summary>An answer to that query: our own word, so authoritative.</summary>
    /// <param name="query">As it came.</param>
    /// <param name="question">Of it.</param>
    /// <param name="code">RCODE.</param>
    /// <param name="address">The one record; null: none.</param>
    public static byte[] Answer(ReadOnlySpan<byte> query, DnsQuestion question, int code, IPAddress? address = null)
    {
        var data = address?.GetAddressBytes() ?? [];
        var answer = new byte[question.Length + (address is null ? 0 : 12 + data.Length)];
        query[..question.Length].CopyTo(answer);
        var header = answer.AsSpan();
        // Response, authoritative, recursion as wanted and available.
        header[2] = (byte)(0x84 | (query[2] & 1));
        header[3] = (byte)(0x80 | code);
        BinaryPrimitives.WriteUInt16BigEndian(header[6..], (ushort)(address is null ? 0 : 1));
        header[8..HeaderSize].Clear();
        if (address is null)
            return answer;
        var record = answer.AsSpan(question.Length);
        // The name is a pointer to the question's.
        BinaryPrimitives.WriteUInt16BigEndian(record, 0xc000 | HeaderSize);
        BinaryPrimitives.WriteUInt16BigEndian(record[2..], address.AddressFamily == AddressFamily.InterNetwork ? A : Aaaa);
        BinaryPrimitives.WriteUInt16BigEndian(record[4..], InternetClass);
        BinaryPrimitives.WriteUInt32BigEndian(record[6..], TimeToLive);
        BinaryPrimitives.WriteUInt16BigEndian(record[10..], (ushort)data.Length);
        data.CopyTo(record[12..]);
        return answer;
    }

    /// <summary>Whether the message is an answer to that query.</summary>
    public static bool Answers(ReadOnlySpan<byte> message, ReadOnlySpan<byte> query, DnsQuestion question) =>
        message.Length >= question.Length && (message[2] & 0x80) != 0 && message[..2].SequenceEqual(query[..2])
        && BinaryPrimitives.ReadUInt16BigEndian(message[4..]) == 1 && message[HeaderSize..question.Length].SequenceEqual(query[HeaderSize..question.Length]);
}
