import java.net.Authenticator;
import java.net.PasswordAuthentication;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Runs Java's HttpClient against an issuer: java Clients.java ISSUER. */
public final class Clients {
    private static final String FORM = "grant_type=client_credentials&resource=orders";
    private static final String SECRET = "mss_checkout-of-the-client-tests";

    public static void main(String[] arguments) throws Exception {
        String issuer = arguments[0];
        // With the default version the client requests an upgrade to HTTP/2.
        for (HttpClient.Version version : HttpClient.Version.values()) {
            // The client sends no credentials until it is challenged (RFC 9110 §11.6.1).
            String right = post(version, issuer + "/token", FORM, SECRET);
            require(right.startsWith("200 ") && right.contains("access_token"), right);
            String token = right.replaceAll("(?s).*\"access_token\":\"([^\"]+)\".*", "$1");
            String active = post(version, issuer + "/introspect", "token=" + token, SECRET);
            require(active.contains("\"active\":true"), active);
            String wrong = FORM + "&client_id=checkout&client_secret=wrong";
            HttpClient client = HttpClient.newBuilder().version(version).build();
            String refused = send(client, issuer + "/token", wrong);
            require(refused.startsWith("401 "), refused);
        }
        System.out.println("java.net.http.HttpClient: ok");
    }

    private static String post(HttpClient.Version version, String uri, String form, String secret)
            throws Exception {
        Authenticator authenticator = new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                return new PasswordAuthentication("checkout", secret.toCharArray());
            }
        };
        var builder = HttpClient.newBuilder().version(version).authenticator(authenticator);
        return send(builder.build(), uri, form);
    }

    private static String send(HttpClient client, String uri, String form) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(uri))
            .header("content-type", "application/x-www-form-urlencoded")
            .POST(BodyPublishers.ofString(form)).build();
        var response = client.send(request, BodyHandlers.ofString());
        return response.statusCode() + " " + response.body();
    }

    private static void require(boolean holds, String answer) {
        if (!holds) {
            throw new AssertionError(answer);
        }
    }
}
