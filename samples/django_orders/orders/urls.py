from django.http import HttpRequest, JsonResponse
from django.urls import path

from orders.functions import list_orders, runner


def show_orders(request: HttpRequest) -> JsonResponse:
    """Show a page of the application; it can call the functions as before."""
    n8n = {"runner": runner.state, "registered": runner.is_registered}
    return JsonResponse({"orders": list(list_orders()), "n8n": n8n})


urlpatterns = [path("", show_orders)]
