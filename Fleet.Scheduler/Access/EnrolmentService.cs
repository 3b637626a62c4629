using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Scheduler.Api;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Grpc.Core;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Access;

/// <summary>
/// Lets hosts and nodes into the cell. A token of role host brings a certificate for one host's id: an id that the cell does not
/// know, unless the token was made for it. So whoever has a token can add a host, but not take another's place.
/// </summary>
internal sealed partial class EnrolmentService(
    CertificateAuthority authority, Tokens tokens, ICell cell, RefusalLimit refusals, ILogger<EnrolmentService> log) : Enrolment.EnrolmentBase
{
    /// <summary>A token, an id and a key have less than half of it.</summary>
    public const int MaxMessage = 4096;

    /// <summary>Of one address within a minute.</summary>
    public const int MostRefusals = 20;

    public override Task<Authority> ReadAuthority(ReadAuthorityRequest request, ServerCallContext context) =>
        Task.FromResult(new Authority { Certificate = ByteString.CopyFrom(authority.Certificate.RawData) });

    public override async Task<EnrolHostReply> EnrolHost(EnrolHostRequest request, ServerCallContext context)
    {
        var (token, refusal) = Admit(request.Token, TokenRole.Host, context.Peer);
        if (token is null)
            return new EnrolHostReply { Refusal = refusal };
        if (!VmSpecRules.IsHostId(request.HostId))
            return Refused("invalid_field", "A host's id is 1 to 40 of a-z, 0-9 and '-', and does not begin with '-'.");
        if (token.Host.Length > 0 && token.Host != request.HostId)
            return Refused("token_host", $"The token {token.Id} is for host {token.Host} alone.");
        if (CertificateAuthority.KeyOf(request.Key.ToByteArray()) is not { } key)
            return Refused("invalid_field", "The key is no certificate request with a key on P-256.");
        var answer = await cell.EnrolHostAsync(request.HostId, SHA256.HashData(key.ExportSubjectPublicKeyInfo()), token.Host.Length > 0, context.CancellationToken);
        if (answer.Problem is { } problem)
            return Refused(problem.Code, problem.Message);
        LogJoined(request.HostId, context.Peer, token.Id, answer.Host!.Enrolment);
        return Granted(request.HostId, answer.Host.Enrolment, request.Key);

        EnrolHostReply Refused(string code, string message) => new() { Refusal = Refuse(code, $"{message}", context.Peer) };
    }

    public override async Task<EnrolHostReply> RenewHost(RenewHostRequest request, ServerCallContext context)
    {
        var verdict = LinkPeer.Of(context);
        if (verdict.Holder is not { } holder)
            return Refused(verdict.Code, verdict.Message);
        var answer = await cell.GetHostAsync(holder.Name, context.CancellationToken);
        if (answer.Problem is { Code: not "not_found" } problem)
            return Refused(problem.Code, problem.Message);
        if (answer.Host is not { } host || host.Enrolment != holder.Enrolment)
            return Refused("certificate_revoked", $"Host {holder.Name} was removed or has joined anew since this certificate was made.");
        if (CertificateAuthority.KeyOf(request.Key.ToByteArray()) is null)
            return Refused("invalid_field", "The key is no certificate request with a key on P-256.");
        LogRenewed(holder.Name, context.Peer);
        return Granted(holder.Name, holder.Enrolment, request.Key);

        EnrolHostReply Refused(string code, string message) => new() { Refusal = Refuse(code, message, context.Peer) };
    }

    public override Task<EnrolSchedulerReply> EnrolScheduler(EnrolSchedulerRequest request, ServerCallContext context)
    {
        var (token, refusal) = Admit(request.Token, TokenRole.Scheduler, context.Peer);
        if (token is null)
            return Task.FromResult(new EnrolSchedulerReply { Refusal = refusal });
        LogNodeJoined(context.Peer, token.Id);
        return Task.FromResult(new EnrolSchedulerReply { Authority = authority.ExportPem() });
    }

    private (TokenRecord? Token, Refusal? Refusal) Admit(string shown, TokenRole role, string peer)
    {
        if (refusals.IsReached(Address(peer)))
            return (null, Refuse("too_many_attempts", $"More than {MostRefusals} attempts from this address were refused within a minute. Wait one."));
        var verdict = tokens.Check(shown);
        if (verdict.Token is not { } token)
            return (null, Refuse(verdict.Code, $"{verdict.Message} {Cure()}", peer));
        return token.Role == role
            ? (token, null)
            : (null, Refuse("token_role", $"The token {token.Id} is of role {Name(token.Role)}; this takes one of role {Name(role)}. {Cure()}", peer));

        string Cure() => $"Make another there: fleet token create --role {Name(role)}";
    }

    private EnrolHostReply Granted(string hostId, uint enrolment, ByteString key)
    {
        using var certificate = authority.IssueHost(hostId, enrolment, key.ToByteArray())!;
        return new EnrolHostReply { Certificate = ByteString.CopyFrom(certificate.RawData) };
    }

    private Refusal Refuse(string code, string message, string peer)
    {
        // What the cell can't do at the moment says nothing against who asks, and he is to ask again.
        if (code == ErrorCodes.Unavailable)
            LogUnable(peer, message);
        else if (refusals.Note(Address(peer)))
            LogRefused(peer, code, message);
        return Refuse(code, message);
    }

    private static Refusal Refuse(string code, string message) => new() { Code = code, Message = message };

    // gRPC writes ipv4:ADDRESS:PORT; the port is another at each try.
    internal static string Address(string peer) => peer.LastIndexOf(':') is > 0 and var at ? peer[..at] : peer;

    private static string Name(TokenRole role) => role.ToString().ToLowerInvariant();

    [LoggerMessage(Level = LogLevel.Warning, Message = "{Peer} was not let in: {Code}, {Reason}")]
    private partial void LogRefused(string peer, string code, string reason);

    [LoggerMessage(Level = LogLevel.Warning, Message = "{Peer} could not be let in now: {Reason}")]
    private partial void LogUnable(string peer, string reason);

    [LoggerMessage(Level = LogLevel.Information, Message = "Host {HostId} joined from {Peer} by token {TokenId}, enrolment {Enrolment}")]
    private partial void LogJoined(string hostId, string peer, string tokenId, uint enrolment);

    [LoggerMessage(Level = LogLevel.Information, Message = "Host {HostId} at {Peer} renewed its certificate")]
    private partial void LogRenewed(string hostId, string peer);

    [LoggerMessage(Level = LogLevel.Warning, Message = "A node of the control plane joined from {Peer} by token {TokenId}: it holds the cell's authority now")]
    private partial void LogNodeJoined(string peer, string tokenId);
}
