using Fleet.Guest.Configuration;
using Fleet.Guest.Processes;
using Xunit;

namespace Fleet.Guest.Tests;

public sealed class UserAccountTests
{
    private static readonly string[] Passwd = ["root:x:0:0::/root:/bin/sh", "# not a line", "app:x:1000:1001::/home/app:/bin/sh", "bare:x:7:8:::", "broken:x:no:1::/:", ""];
    private static readonly string[] Group = ["root:x:0:", "app:x:1001:app", "extra:x:1002:other,app", "third:x:1003:another"];

    [Theory]
    [InlineData("", 0, 0, "", "/root")]
    [InlineData("root", 0, 0, "", "/root")]
    [InlineData("app", 1000, 1001, "1002", "/home/app")]
    [InlineData("1000", 1000, 1001, "1002", "/home/app")]
    [InlineData("app:extra", 1000, 1002, "", "/home/app")]
    [InlineData("app:77", 1000, 77, "", "/home/app")]
    [InlineData("4242", 4242, 0, "", "/")]
    [InlineData("4242:4243", 4242, 4243, "", "/")]
    [InlineData(":extra", 0, 1002, "", "/root")]
    [InlineData("bare", 7, 8, "", "/")]
    public void Names_and_numbers_are_found_in_the_images_files(string wanted, int uid, int gid, string groups, string home)
    {
        var user = UserAccount.Find(wanted, Passwd, Group);
        Assert.Equal(((uint)uid, (uint)gid, groups, home), (user.Uid, user.Gid, string.Join(',', user.Groups), user.Home));
    }

    [Theory]
    [InlineData("nobody-knows")]
    [InlineData("app:nobody-knows")]
    [InlineData("broken")]
    [InlineData("-1")]
    [InlineData("99999999999")]
    public void Who_is_not_there_is_told(string wanted) => Assert.Throws<BadConfigurationException>(() => UserAccount.Find(wanted, Passwd, Group));

    [Fact]
    public void Without_files_numbers_do() => Assert.Equal(0u, UserAccount.Find("", [], []).Uid);
}
