from tests.stripe_simulator.conftest import START, Account
from tests.stripe_simulator.description import check_object


def test_invoice_lines_are_paged_and_the_invoice_shows_the_first_ten(account: Account) -> None:
    prices = [account.flat_price(cents) for cents in range(1, 14)]
    subscription = account.subscribe(*prices)
    invoice = account.v1.invoices.retrieve(subscription.latest_invoice)
    assert len(invoice.lines.data) == 10
    assert invoice.lines.has_more
    page = account.v1.invoices.line_items.list(invoice.id, {"limit": 5})
    assert (len(page.data), page.has_more) == (5, True)
    assert [line.amount for line in page.auto_paging_iter()] == list(range(1, 14))


def test_a_list_is_newest_first_and_pages_both_ways(account: Account) -> None:
    created = [account.v1.customers.create({"name": str(number)}).id for number in range(5)]
    listed = [customer.id for customer in account.v1.customers.list({"limit": 2}).auto_paging_iter()]
    assert listed == created[::-1]
    before = account.v1.customers.list({"limit": 2, "ending_before": created[0]})
    assert [customer.id for customer in before.data] == [created[2], created[1]]
    assert before.has_more


def test_events_are_filtered_by_time_and_type(account: Account) -> None:
    account.v1.customers.create()
    account.advance(START + 60)
    account.v1.customers.create()
    account.v1.products.create({"name": "Usage"})
    params = {"created": {"gte": START + 60}, "types": ["customer.created"]}
    assert [event.created for event in account.v1.events.list(params).auto_paging_iter()] == [START + 60]


def test_every_event_holds_an_object_as_described(account: Account) -> None:
    subscription = account.subscribe(account.metered_price(), account.flat_price(5))
    account.v1.customers.delete(subscription.customer)
    for event in account.v1.events.list({"limit": 100}).data:
        check_object(event.to_dict(for_json=True)["data"]["object"])


def test_customers_are_searched_by_metadata_with_or(account: Account) -> None:
    for team in ("team:1", "team:o'neil", "team:3"):
        account.v1.customers.create({"metadata": {"attributionId": team}})
    query = r"metadata['attributionId']:'team:1' OR metadata['attributionId']:'team:o\'neil'"
    found = account.v1.customers.search({"query": query, "expand": ["data.tax", "data.subscriptions"], "limit": 100})
    assert [customer.metadata["attributionId"] for customer in found.data] == ["team:o'neil", "team:1"]
    assert found.data[0].tax.automatic_tax == "unrecognized_location"
    assert found.data[0].subscriptions.data == []


def test_a_search_is_paged(account: Account) -> None:
    for _ in range(5):
        account.v1.customers.create({"metadata": {"attributionId": "team:1"}})
    found = account.v1.customers.search({"query": "metadata['attributionId']:'team:1'", "limit": 2})
    assert len(list(found.auto_paging_iter())) == 5


def test_expansion_shows_what_is_otherwise_an_id_or_absent(account: Account) -> None:
    subscription = account.subscribe(account.flat_price(900), address={"country": "DE"})
    customer = account.v1.customers.retrieve(subscription.customer, {"expand": ["tax", "subscriptions"]})
    assert customer.tax.automatic_tax == "supported"
    assert [one.id for one in customer.subscriptions.data] == [subscription.id]
    invoice = account.v1.invoices.retrieve(subscription.latest_invoice, {"expand": ["customer", "payments"]})
    assert invoice.customer.id == customer.id
    assert invoice.payments.data[0].amount_paid == 900
    assert account.v1.subscriptions.retrieve(subscription.id, {"expand": ["customer"]}).customer.id == customer.id


def test_a_deleted_customer_is_only_a_name_and_has_no_subscriptions(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    account.v1.customers.delete(subscription.customer)
    gone = account.v1.customers.retrieve(subscription.customer, {"expand": ["tax", "subscriptions"]})
    assert gone.deleted
    assert account.v1.subscriptions.retrieve(subscription.id).status == "canceled"
    assert account.v1.customers.list().data == []


def test_metadata_is_merged_and_an_empty_value_removes_its_key(account: Account) -> None:
    customer = account.v1.customers.create({"metadata": {"kept": "1", "dropped": "2"}})
    changed = account.v1.customers.update(customer.id, {"metadata": {"dropped": "", "added": "3"}})
    assert changed.metadata.to_dict() == {"kept": "1", "added": "3"}
    event = account.v1.events.list({"type": "customer.updated"}).data[0]
    assert event.data.previous_attributes["metadata"]["dropped"] == "2"


def test_what_was_made_is_found_again(account: Account) -> None:
    price = account.flat_price(900)
    subscription = account.subscribe(price)
    clock = account.v1.test_helpers.test_clocks.create({"frozen_time": START})
    assert account.v1.products.retrieve(price.product).name == "Seat"
    found = account.v1.subscriptions.list({"customer": subscription.customer, "status": "active"}).data
    assert [one.id for one in found] == [subscription.id]
    assert account.v1.subscriptions.list({"status": "canceled"}).data == []
    assert account.v1.test_helpers.test_clocks.retrieve(clock.id).frozen_time == START
