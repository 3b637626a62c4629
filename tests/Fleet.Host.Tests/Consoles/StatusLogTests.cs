using System.Text;
using CsCheck;
using Fleet.Host.Consoles;

namespace Fleet.Host.Tests.Consoles;

public sealed class StatusLogTests
{
    private static StatusLog Fed(string text)
    {
        var log = new StatusLog("/nonexistent/status.log");
        log.Feed(Encoding.Latin1.GetBytes(text));
        return log;
    }

    [Fact]
    public void Should_take_the_protocols_lines()
    {
        var log = Fed("FLEET 1 ready\n");
        Assert.True(log.Ready);
        Assert.Null(log.Exit);
        log.Feed("FLEET 1 exit 143\n"u8);
        Assert.Equal(143, log.Exit?.Status);
    }

    [Fact]
    public void Should_take_an_error_and_make_it_printable()
    {
        var log = Fed("FLEET 1 error exec_failed no such\x1b[31m file\n");
        Assert.Equal(("exec_failed", "no such?[31m file"), (log.Error?.Code, log.Error?.Message));
        Assert.False(log.Ready);
    }

    [Theory]
    [InlineData("FLEET 1 exit 7\nFLEET 1 exit 8\n", 7)]
    [InlineData("FLEET 1 exit 256\nFLEET 1 exit 8\n", 8)]
    [InlineData("FLEET 1 exit -1\nFLEET 1 exit 0\n", 0)]
    [InlineData("FLEET 1 exit +1\n", null)]
    [InlineData("FLEET 1 exit 1 \n", null)]
    [InlineData("FLEET 1 exit\n", null)]
    [InlineData("FLEET 1 exit 99999999999999999999\n", null)]
    [InlineData("FLEET 2 exit 1\n", null)]
    [InlineData("fleet 1 exit 1\n", null)]
    [InlineData(" FLEET 1 exit 1\n", null)]
    [InlineData("FLEET 1 exit 5", null)]
    [InlineData("FLEET 1 exit 5\r\n", 5)]
    [InlineData("\0\xff\nFLEET 1 exit 5\n", 5)]
    [InlineData("FLEET 1 error bad_config x\nFLEET 1 exit 5\n", null)]
    public void Should_take_the_first_exit_that_makes_sense(string text, int? status) => Assert.Equal(status, Fed(text).Exit?.Status);

    [Fact]
    public void Should_pass_over_a_line_that_is_too_long()
    {
        Assert.Null(Fed("FLEET 1 error bad_config " + new string('x', 600) + "\n").Error);
        Assert.Equal(6, Fed(new string('x', 100_000) + "\nFLEET 1 exit 6\n").Exit?.Status);
        Assert.InRange(Fed("FLEET 1 error bad_config " + new string('x', 400) + "\n").Error!.Message.Length, 1, 200);
    }

    [Fact]
    public void Should_stand_anything() => Gen.Byte.Array[0, 2000].Sample(bytes =>
    {
        var log = new StatusLog("/nonexistent/status.log");
        log.Feed("FLEET 1 "u8);
        log.Feed(bytes);
        return log.Exit is null or { Status: >= 0 and <= 255 };
    }, iter: 2000);

    [Fact]
    public void Should_read_what_is_new_and_cut_what_is_too_much()
    {
        string path = Path.GetTempFileName();
        try
        {
            var log = new StatusLog(path);
            File.AppendAllText(path, "FLEET 1 rea");
            log.Poll();
            Assert.False(log.Ready);
            File.AppendAllText(path, "dy\n");
            log.Poll();
            Assert.True(log.Ready);
            File.AppendAllText(path, new string('x', 3 * StatusLog.MaxBytes) + "\nFLEET 1 exit 1\n");
            log.Poll();
            Assert.Null(log.Exit);
            Assert.Equal(StatusLog.MaxBytes, new FileInfo(path).Length);
        }
        finally
        {
            File.Delete(path);
        }
    }
}
