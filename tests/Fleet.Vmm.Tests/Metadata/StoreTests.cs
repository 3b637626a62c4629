using System.Text;
using Fleet.Vmm.Metadata;
using Xunit;

namespace Fleet.Vmm.Tests.Metadata;

public class StoreTests
{
    // The examples of RFC 7396, appendix A.
    [Theory]
    [InlineData("""{"a":"b"}""", """{"a":"c"}""", """{"a":"c"}""")]
    [InlineData("""{"a":"b"}""", """{"b":"c"}""", """{"a":"b","b":"c"}""")]
    [InlineData("""{"a":"b"}""", """{"a":null}""", "{}")]
    [InlineData("""{"a":"b","b":"c"}""", """{"a":null}""", """{"b":"c"}""")]
    [InlineData("""{"a":["b"]}""", """{"a":"c"}""", """{"a":"c"}""")]
    [InlineData("""{"a":"c"}""", """{"a":["b"]}""", """{"a":["b"]}""")]
    [InlineData("""{"a":{"b":"c"}}""", """{"a":{"b":"d","c":null}}""", """{"a":{"b":"d"}}""")]
    [InlineData("""{"a":[{"b":"c"}]}""", """{"a":[1]}""", """{"a":[1]}""")]
    [InlineData("""["a","b"]""", """["c","d"]""", """["c","d"]""")]
    [InlineData("""{"a":"b"}""", """["c"]""", """["c"]""")]
    [InlineData("""{"a":"foo"}""", "null", "null")]
    [InlineData("""{"a":"foo"}""", "\"bar\"", "\"bar\"")]
    [InlineData("""{"e":null}""", """{"a":1}""", """{"a":1,"e":null}""")]
    [InlineData("[1,2]", """{"a":"b","c":null}""", """{"a":"b"}""")]
    [InlineData("{}", """{"a":{"bb":{"ccc":null}}}""", """{"a":{"bb":{}}}""")]
    public void Should_merge(string document, string patch, string result) =>
        Assert.Equal(result, Encoding.UTF8.GetString(Service.Parse(document).Merge(Service.Parse(patch)).ToJson()));

    [Theory]
    [InlineData("""{"b": 1, "a": {"z": "é\n", "y": [true, false, null, -1.50e3]}}""", """{"a":{"y":[true,false,null,-1.50e3],"z":"é\n"},"b":1}""")]
    [InlineData("""{"a": 1, "b": 2, "a": 3}""", """{"a":3,"b":2}""")]
    [InlineData("123456789012345678901234567890", "123456789012345678901234567890")]
    public void Should_tell_what_it_was_told_in_order(string document, string text) =>
        Assert.Equal(text, Encoding.UTF8.GetString(Service.Parse(document).ToJson()));

    [Theory]
    [InlineData("/", "latest/")]
    [InlineData("//", "latest/")]
    [InlineData("/latest", "meta-data/\nuser-data")]
    [InlineData("/latest/", "meta-data/\nuser-data")]
    [InlineData("//latest//meta-data///ami-id", "ami-1")]
    [InlineData("/latest/meta-data/", "a/b\nami-id\nempty/\nlist\nn")]
    [InlineData("/latest/meta-data/empty", "")]
    [InlineData("/latest/meta-data/list/0", "a")]
    [InlineData("/latest/meta-data/list/1", "b")]
    [InlineData("/latest/meta-data/a~1b", "slash")]
    [InlineData("/latest/user-data", "läuft")]
    public void Should_find_by_path_and_tell_as_text(string path, string text)
    {
        var value = new Service().Metadata.Store.Find(path);
        Assert.NotNull(value);
        Assert.Equal(text, Encoding.UTF8.GetString(MetadataStore.AsText(value)!));
    }

    [Theory]
    [InlineData("/Latest")]
    [InlineData("/latest/meta-data/list/2")]
    [InlineData("/latest/meta-data/list/01")]
    [InlineData("/latest/meta-data/list/-")]
    [InlineData("/latest/meta-data/list/99999999999999999999")]
    [InlineData("/latest/meta-data/ami-id/x")]
    [InlineData("/latest/meta-data/a/b")]
    public void Should_not_find_what_is_not_there(string path) => Assert.Null(new Service().Metadata.Store.Find(path));

    [Fact]
    public void Should_keep_the_limit_and_what_was_there()
    {
        var store = new MetadataStore(20);
        store.Replace(Service.Parse("""{ "a" : "0123456789" }"""));
        Assert.Throws<MetadataTooLargeException>(() => store.Replace(Service.Parse("""{"a":"012345678901234"}""")));
        Assert.Equal("""{"a":"0123456789"}""", Encoding.UTF8.GetString(store.Document!.ToJson()));
    }

    // Reference values of the function's authors: key 00..0f, message 00, 01, 02...
    [Theory]
    [InlineData(0, "a3817f04ba25a8e66df67214c7550293")]
    [InlineData(1, "da87c1d86b99af44347659119b22fc45")]
    [InlineData(2, "8177228da4a45dc7fca38bdef60affe4")]
    public void Should_compute_SipHash(int length, string tag)
    {
        var computed = new byte[SipHash.TagSize];
        SipHash.Compute([.. Enumerable.Range(0, 16).Select(i => (byte)i)], [.. Enumerable.Range(0, length).Select(i => (byte)i)], computed);
        Assert.Equal(tag, Convert.ToHexStringLower(computed));
    }
}
